"""What people click on: read and rate answers, run a test, and see its numbers."""

import re

import pytest

from abtests.actions import abtests, feedback
from abtests.actions.abtests import Share
from abtests.models import ABTest, Feedback, FeedbackEdit
from abtests.traffic import AnswerRecord, record_answers
from registry.models import Deployment, DeploymentState


def text_of(response):
    """The visible words of a page."""
    words = re.sub(r"<(script|style|template)\b.*?</\1>", " ", response.content.decode(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", words))


@pytest.fixture
def page(cast):
    return cast.page("operator")


def test_empty_pages_say_what_to_do(cast, page):
    for path, words in (
        ("feedback/", "No answers yet"),
        ("feedback/numbers/", "No feedback in this period"),
        ("abtests/", "No tests yet"),
        ("abtests/new/", "There is no version to test yet"),
        ("playground/", "No version is served"),
    ):
        response = page.get(f"/{path}")
        assert response.status_code == 200
        assert words in text_of(response)


def test_answers_can_be_read_and_filtered(page, cast, world):
    good = world.answer(text="All fine", messages=[{"role": "user", "content": "How <b>is</b> it?"}])
    poor = world.answer(text="No idea", version_id=world.two.pk)
    failed = world.answer(text="", error="The engine was lost.")
    feedback.give(good.pk, by=cast.actor("owner"), rating=5, comment="Just right")
    feedback.give(poor.pk, by=cast.actor("owner"), thumb="down")
    everything = text_of(page.get("/feedback/"))
    for words in ("All fine", "No idea", "The engine was lost.", "Just right", "How &lt;b&gt;is&lt;/b&gt; it?"):
        assert words in everything

    def shown(**query):
        content = page.get("/feedback/", query).content.decode()
        return {answer.pk for answer in (good, poor, failed) if f"/answers/{answer.pk}/" in content}

    assert shown(show="rated") == {good.pk, poor.pk}
    assert shown(show="unrated") == shown(show="failed") == {failed.pk}
    assert shown(show="low") == {poor.pk}
    assert shown(show="commented") == {good.pk}
    assert shown(show="corrected") == set()
    assert shown(version=str(world.two.pk)) == {poor.pk}
    assert shown(search="all FINE") == {good.pk}
    assert shown(search="nothing like it") == set()
    assert shown(show="nonsense", version="nonsense", page="nonsense") == {good.pk, poor.pk, failed.pk}


def test_rating_on_the_page(page, cast, world):
    answer = world.answer(text="Around nine")
    path = f"/answers/{answer.pk}/"
    assert "Around nine" in text_of(page.get(path))
    response = page.post(
        path, {"rating": "2", "corrected_text": "Nine\r\nsharp", "comment": "", "feedback_type": "tone"}
    )
    assert (response.status_code, response["location"]) == (302, path)
    vote = Feedback.objects.get()
    assert (vote.rating, vote.corrected_text, vote.feedback_type, vote.source) == (2, "Nine\nsharp", "tone", "page")
    page.post(path, {"thumb": "up"})  # what is not sent stays
    vote.refresh_from_db()
    assert (vote.rating, vote.thumb) == (2, "up")
    assert FeedbackEdit.objects.count() == 1
    again = page.get(path)
    assert "Nine\nsharp" in again.content.decode() and "Said before (1)" in text_of(again)
    assert re.search(r'value="2" checked', again.content.decode())


@pytest.mark.parametrize("bad", [{}, {"rating": "9"}, {"thumb": "sideways"}, {"rating": "3", "feedback_type": "a/b"}])
def test_a_bad_vote_is_explained_on_the_page(page, world, bad):
    answer = world.answer()
    response = page.post(f"/answers/{answer.pk}/", {"comment": "", **bad})
    assert response.status_code == 400
    assert "Answer of intents:1" in text_of(response)
    quiet = page.post(f"/answers/{answer.pk}/", {"comment": "", **bad}, headers={"accept": "application/json"})
    assert quiet.status_code == 400 and quiet.json()["detail"]
    assert not Feedback.objects.exists()


def test_a_quiet_vote(page, world):
    answer = world.answer()
    response = page.post(
        f"/answers/{answer.pk}/", {"thumb": "up", "source": "playground"}, headers={"accept": "application/json"}
    )
    assert response.json() == {"detail": "Saved."}
    assert Feedback.objects.get().source == "playground"


def test_from_one_answer_to_the_next(page, world):
    answers = [world.answer() for _ in range(3)]
    page.post(f"/answers/{answers[1].pk}/", {"rating": "3"})
    response = page.post(f"/answers/{answers[2].pk}/", {"rating": "4", "next": "1"})
    assert response["location"] == f"/answers/{answers[0].pk}/"  # the one between has my vote
    middle = page.get(f"/answers/{answers[1].pk}/").content.decode()
    assert f'href="/answers/{answers[2].pk}/" rel="prev"' in middle
    assert f'href="/answers/{answers[0].pk}/" rel="next"' in middle
    assert page.post(f"/answers/{answers[0].pk}/", {"rating": "4", "next": "1"})["location"] == "/feedback/"


def test_the_numbers_page(page, cast, world):
    feedback.give(world.answer().pk, by=cast.actor("owner"), rating=5, thumb="up", feedback_type="tone")
    feedback.give(world.answer().pk, by=cast.actor("owner"), rating=2)
    words = text_of(page.get("/feedback/numbers/?period=7"))
    for expected in ("3.50", "intents:1", "tone", "100"):
        assert expected in words
    assert page.get("/feedback/numbers/?period=nonsense").status_code == 200


def test_a_list_of_many_answers_takes_few_queries(page, cast, world, django_assert_max_num_queries):
    record_answers(
        [
            AnswerRecord(
                id=f"chatcmpl-{n}", workspace_id=world.workspace.pk, model_id=world.model.pk, version_id=world.one.pk
            )
            for n in range(10_000)
        ]
    )
    for n in range(9_970, 10_000):
        feedback.give(f"chatcmpl-{n}", by=cast.actor("owner"), rating=3)
    for path, limit in (("feedback/", 12), ("feedback/?page=399", 12), ("feedback/numbers/", 12), ("abtests/", 12)):
        with django_assert_max_num_queries(limit):
            assert page.get(f"/{path}").status_code == 200


# --- tests


def form(world, **changes):
    return {
        "name": "Shorter answers",
        "version_a": str(world.one.pk),
        "weight_a": "90",
        "version_b": str(world.two.pk),
        "weight_b": "10",
        "weight_c": "50",
        "weight_d": "50",
        "metrics": ["thumb", "latency"],
        **changes,
    }


def test_a_test_from_the_form_to_its_winner(page, world):
    response = page.post("/abtests/new/", form(world))
    assert response.status_code == 302, text_of(response)
    test = ABTest.objects.get()
    assert [variant.weight for variant in test.variants.all()] == [90, 10]
    path = f"/abtests/{test.pk}/"
    assert "90% of the users" in text_of(page.get(path))
    assert "It is running" in text_of(page.post(f"{path}start/", follow=True))
    assert "Nobody has taken part yet." in text_of(page.get(path))
    world.answer(test_id=test.pk, arm="a")
    assert "1 user so far" in text_of(page.get(path))
    assert "Paused." in text_of(page.post(f"{path}pause/", follow=True))
    assert "It is running" in text_of(page.post(f"{path}start/", follow=True))
    stopped = text_of(page.post(f"{path}stop/", {"winner": "b"}, follow=True))
    assert "intents:2 won" in stopped and "Promote it" in stopped
    assert "intents:2" in text_of(page.get("/abtests/"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "required"),
        ({"version_b": ""}, "required"),
        ({"version_b": "nonsense"}, "valid choice"),
        ({"weight_a": "-1"}, "greater than or equal to 1"),
        ({"weight_a": "many"}, "whole number"),
        ({"metrics": ["speed"]}, "valid choice"),
    ],
)
def test_a_bad_form_is_explained(page, world, changes, words):
    response = page.post("/abtests/new/", form(world, **changes))
    assert response.status_code == 400
    assert words in text_of(response)
    assert not ABTest.objects.exists()


def test_the_same_version_twice_is_explained_at_its_row(page, world):
    response = page.post("/abtests/new/", form(world, version_b=str(world.one.pk)))
    assert response.status_code == 400
    assert "intents:1 is in the test already" in text_of(response)


def test_what_hinders_the_start_is_said(page, cast, world):
    by = cast.actor("operator")
    test = abtests.create(name="t", variants=[Share("intents:1"), Share("intents:2")], by=by)
    Deployment.objects.filter(version=world.two).update(state=DeploymentState.FAILED, failure="No space left.")
    words = text_of(page.get(f"/abtests/{test.pk}/"))
    assert "Not every variant is ready" in words and "No space left." in words
    other = abtests.create(name="other", variants=[Share("intents:1"), Share("intents:2")], by=by)
    Deployment.objects.update(state=DeploymentState.HEALTHY)
    abtests.start(other, by=by)
    assert "The model's route is taken" in text_of(page.get(f"/abtests/{test.pk}/")).replace("&#x27;", "'")
    refused = page.post(f"/abtests/{test.pk}/start/", follow=True)
    assert "An A/B test decides" in text_of(refused)


def test_results_in_words(page, cast, world, make_test):
    test = make_test(world)
    for number in range(4):
        one = world.answer(test_id=test.pk, arm="a", unit_hash=f"a{number}", latency_ms=1500)
        feedback.give(one.pk, by=cast.actor("owner"), user_id=f"a{number}", rating=2)
    two = world.answer(test_id=test.pk, arm="b", unit_hash="b1", latency_ms=800, error="")
    feedback.give(two.pk, by=cast.actor("owner"), user_id="b1", rating=5)
    world.answer(test_id=test.pk, arm="b", unit_hash="a1")
    words = text_of(page.get(f"/abtests/{test.pk}/"))
    assert "4 users so far. intents:2 is ahead on mean rating: 5.00 of 5, against 2.00 of 5 for intents:1." in words
    assert "a lead is most likely chance" in words
    assert "1 user met more than one variant, in 2 answers" in words
    assert "75.0" in words and "1.5 s" in words


def test_results_of_many_answers_take_few_queries(page, world, make_test, django_assert_max_num_queries):
    test = make_test(world)
    record_answers(
        [
            AnswerRecord(
                id=f"chatcmpl-{n}",
                workspace_id=world.workspace.pk,
                model_id=world.model.pk,
                version_id=world.one.pk,
                test_id=test.pk,
                arm="ab"[n % 2],
                unit_hash=f"u{n % 500}",
            )
            for n in range(10_000)
        ]
    )
    with django_assert_max_num_queries(14):
        assert "500 users so far" in text_of(page.get(f"/abtests/{test.pk}/"))


def test_strangers_and_viewers(cast, world, make_test):
    answer, test = world.answer(text="Between us"), make_test(world)
    stranger = cast.page("stranger")
    for path in (f"answers/{answer.pk}/", f"abtests/{test.pk}/"):
        assert stranger.get(f"/{path}").status_code == 404
    assert stranger.post(f"/answers/{answer.pk}/", {"rating": "1"}).status_code == 404
    quiet = stranger.post(f"/answers/{answer.pk}/", {"rating": "1"}, headers={"accept": "application/json"})
    assert quiet.status_code == 404
    assert stranger.post(f"/abtests/{test.pk}/stop/").status_code == 404
    assert "Between us" not in text_of(stranger.get("/feedback/"))
    viewer = cast.page("viewer")
    assert viewer.post(f"/answers/{answer.pk}/", {"rating": "1"}).status_code == 302
    assert viewer.get(f"/abtests/{test.pk}/").status_code == 200
    assert viewer.get("/abtests/new/").status_code == 403
    viewer.post(f"/abtests/{test.pk}/stop/")
    test.refresh_from_db()
    assert test.is_running
