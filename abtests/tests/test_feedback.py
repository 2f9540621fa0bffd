"""One vote per person and answer, tied to an answer of the same workspace, with its history."""

import pytest
from django.db import DatabaseError, transaction

from abtests.actions import feedback
from abtests.counting import opinions
from abtests.models import Feedback, FeedbackEdit
from project.kernel.errors import Forbidden, Invalid, NotFound


@pytest.fixture
def answer(world):
    return world.answer()


def test_voting_twice_edits_and_keeps_what_was_said(cast, answer):
    by = cast.actor("teammate")
    first = feedback.give(answer.pk, by=by, rating=2, comment="Too long")
    second = feedback.give(answer.pk, by=by, rating=4)
    assert first.pk == second.pk and Feedback.objects.count() == 1
    assert (second.rating, second.comment) == (4, "Too long")  # what is left out stays
    edit = FeedbackEdit.objects.get()
    assert (edit.rating, edit.comment, edit.replaced_by) == (2, "Too long", by.label)
    assert edit.said_at == first.updated_at


def test_saying_the_same_again_changes_nothing(cast, answer):
    for _ in range(3):
        feedback.give(answer.pk, by=cast.actor("teammate"), thumb="up")
    assert not FeedbackEdit.objects.exists()


def test_different_people_have_different_votes(cast, answer):
    for name, user_id, session_id in (
        ("teammate", "", ""),
        ("viewer", "", ""),
        ("viewer", "ann", ""),
        ("teammate", "ann", ""),  # the same end user, sent by somebody else: the same vote
        ("viewer", "", "s1"),
        ("viewer", f"member:{cast.viewer.pk}", ""),  # an end user cannot take a member's vote
    ):
        feedback.give(answer.pk, by=cast.actor(name), user_id=user_id, session_id=session_id, rating=3)
    assert Feedback.objects.count() == 5


def test_who_voted_cannot_be_read_from_the_row(cast, answer):
    vote = feedback.give(answer.pk, by=cast.actor("teammate"), user_id="ann@example.com", rating=3)
    assert "ann" not in str(Feedback.objects.filter(pk=vote.pk).values().get())


def test_an_answer_of_another_workspace_does_not_exist(cast, answer):
    with pytest.raises(NotFound):
        feedback.give(answer.pk, by=cast.actor("stranger"), rating=5)
    with pytest.raises(NotFound):
        feedback.give("chatcmpl-forged", by=cast.actor("owner"), rating=5)
    assert not Feedback.objects.exists()


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "rating"),
        ({"feedback_type": "tone"}, "rating"),
        ({"comment": "   "}, "rating"),
        ({"rating": 0}, "rating"),
        ({"rating": 6}, "rating"),
        ({"rating": 4.5}, "rating"),
        ({"rating": True}, "rating"),
        ({"thumb": "sideways"}, "thumb"),
        ({"rating": 3, "feedback_type": "no/slashes"}, "feedback_type"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"corrected_text": "x" * 100_001}, "corrected_text"),
        ({"rating": 3, "user_id": "x" * 201}, "user_id"),
    ],
)
def test_bad_votes_name_their_field(cast, answer, said, field):
    with pytest.raises(Invalid) as problem:
        feedback.give(answer.pk, by=cast.actor("owner"), **said)
    assert list(problem.value.errors) == [field]
    assert not Feedback.objects.exists()


def test_a_vote_can_take_back_a_part_but_not_say_nothing(cast, answer):
    by = cast.actor("owner")
    feedback.give(answer.pk, by=by, rating=2, comment="Too long")
    assert feedback.give(answer.pk, by=by, comment="").comment == ""
    with pytest.raises(Invalid):
        feedback.give(answer.pk, by=by, rating=None)
    assert Feedback.objects.get().rating == 2


def test_a_token_without_the_scope_cannot_vote(cast, answer):
    from dataclasses import replace

    with pytest.raises(Forbidden):
        feedback.give(answer.pk, by=replace(cast.actor("owner"), scopes=frozenset({"read"})), rating=3)


def test_history_cannot_be_changed(cast, answer):
    feedback.give(answer.pk, by=cast.actor("owner"), rating=2)
    feedback.give(answer.pk, by=cast.actor("owner"), rating=3)
    for change in (lambda: FeedbackEdit.objects.update(rating=5), lambda: FeedbackEdit.objects.all().delete()):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_statistics_by_version_day_and_type(cast, world, django_assert_num_queries):
    by = cast.actor("owner")
    feedback.give(world.answer().pk, by=by, rating=5, thumb="up", feedback_type="tone")
    feedback.give(world.answer().pk, by=by, rating=2, corrected_text="Better")
    feedback.give(world.answer(version_id=world.two.pk).pk, by=by, thumb="down", feedback_type="Tone")
    with django_assert_num_queries(5):
        stats = opinions.statistics(Feedback.objects.all())
    assert (stats.total.votes, stats.total.ratings, stats.total.mean_rating, stats.total.up_share) == (3, 2, 3.5, 0.5)
    assert stats.histogram == {1: 0, 2: 1, 3: 0, 4: 0, 5: 1}
    assert [(tally.label, tally.votes, tally.corrections) for tally in stats.versions] == [
        ("intents:1", 2, 1),
        ("intents:2", 1, 0),
    ]
    assert [(tally.label, tally.votes) for tally in stats.types] == [("tone", 2), ("", 1)]
    assert [tally.votes for tally in stats.days] == [3]
