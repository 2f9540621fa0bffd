"""Counts can be checked by hand: these data were made by hand."""

import time

import pytest

from abtests.actions import feedback
from abtests.counting import arms
from abtests.models import TestState
from abtests.traffic import AnswerRecord, record_answers


@pytest.fixture
def say(cast):
    def give(answer, who="someone", **said):
        return feedback.give(answer.pk, by=cast.actor("owner"), user_id=who, **said)

    return give


def test_nothing_yet(world, make_test):
    results = arms.count(make_test(world, weights=(90, 10)))
    one, two = results.arms
    assert (one.key, one.wanted_share, two.key, two.wanted_share) == ("a", 0.9, "b", 0.1)
    assert (one.units, one.answers, one.errors, one.feedback) == (0, 0, 0, 0)
    assert one.unit_share is one.mean_rating is one.up_share is one.latency_mean_ms is one.latency_p95_ms is None
    assert not results.left_out


def test_a_unit_counts_once_however_often_it_asks(world, make_test):
    test = make_test(world)
    for unit, arm, asks in (("ann", "a", 5), ("bob", "a", 1), ("cy", "b", 2)):
        for _ in range(asks):
            world.answer(test_id=test.pk, arm=arm, unit_hash=unit)
    world.answer(unit_hash="ann")  # outside the test
    world.answer(test_id=make_test(world, state=TestState.STOPPED).pk, arm="b", unit_hash="dee")  # of another one
    one, two = arms.count(test).arms
    assert (one.units, one.answers, two.units, two.answers) == (2, 6, 1, 2)
    assert one.unit_share == pytest.approx(2 / 3)
    assert (one.prompt_tokens, one.completion_tokens) == (60, 30)


def test_a_failed_answer_counts_but_its_time_does_not(world, make_test):
    test = make_test(world)
    for latency in (100, 200, 300, 400):
        world.answer(test_id=test.pk, arm="a", unit_hash=f"u{latency}", latency_ms=latency)
    world.answer(test_id=test.pk, arm="a", unit_hash="late", latency_ms=60_000, error="The engine was lost.")
    one, two = arms.count(test).arms
    assert (one.units, one.answers, one.errors, one.error_share) == (5, 5, 1, 0.2)
    assert (one.latency_mean_ms, one.latency_p50_ms, one.latency_p95_ms) == (250, 200, 400)
    assert (two.errors, two.error_share) == (0, None)


def test_percentiles_are_by_nearest_rank(world, make_test):
    test = make_test(world)
    record_answers(
        [
            AnswerRecord(
                id=f"chatcmpl-{number}",
                workspace_id=world.workspace.pk,
                model_id=world.model.pk,
                version_id=world.one.pk,
                test_id=test.pk,
                arm="a",
                unit_hash=f"u{number % 7}",
                latency_ms=float(number),
            )
            for number in range(1, 101)
        ]
    )
    one = arms.count(test).arms[0]
    assert (one.latency_mean_ms, one.latency_p50_ms, one.latency_p95_ms) == (50.5, 50, 95)


def test_every_unit_speaks_once(world, make_test, say):
    test = make_test(world)
    for _ in range(3):  # ann asks three times and is happy each time
        say(world.answer(test_id=test.pk, arm="a", unit_hash="ann"), rating=5, thumb="up")
    say(world.answer(test_id=test.pk, arm="a", unit_hash="bob"), rating=2, thumb="down")
    world.answer(test_id=test.pk, arm="a", unit_hash="cy")  # says nothing
    say(world.answer(test_id=test.pk, arm="b", unit_hash="dee"), comment="fine")
    one, two = arms.count(test).arms
    assert (one.feedback, one.units_with_feedback, one.ratings, one.mean_rating) == (4, 2, 4, 3.5)
    assert (one.thumbs, one.thumbs_up, one.up_share) == (4, 3, 0.5)
    assert (two.feedback, two.ratings, two.mean_rating, two.up_share) == (1, 0, None, None)


def test_an_edited_vote_counts_as_it_is_now(world, make_test, say):
    test = make_test(world)
    answer = world.answer(test_id=test.pk, arm="a", unit_hash="ann")
    say(answer, rating=1)
    say(answer, rating=4)
    say(answer, thumb="up")
    say(answer, who="a colleague", rating=2)
    one = arms.count(test).arms[0]
    assert (one.feedback, one.ratings, one.mean_rating, one.thumbs_up) == (2, 2, 3.0, 1)


def test_a_unit_in_two_arms_is_left_out_and_reported(world, make_test, say):
    test = make_test(world)
    world.answer(test_id=test.pk, arm="a", unit_hash="ann", latency_ms=100)
    say(world.answer(test_id=test.pk, arm="a", unit_hash="both", latency_ms=9000, error="boom"), rating=1)
    world.answer(test_id=test.pk, arm="b", unit_hash="both", latency_ms=9000)
    world.answer(test_id=test.pk, arm="b", unit_hash="cy", latency_ms=300)
    results = arms.count(test)
    one, two = results.arms
    assert (one.units, one.answers, one.errors, one.feedback, one.latency_p95_ms) == (1, 1, 0, 0, 100)
    assert (two.units, two.answers, two.latency_p95_ms, two.unit_share) == (1, 1, 300, 0.5)
    assert (results.left_out.crossover_units, results.left_out.crossover_answers) == (1, 2)


def test_what_belongs_to_no_arm_is_reported(world, make_test):
    test = make_test(world)
    world.answer(test_id=test.pk, arm="a", unit_hash="ann")
    world.answer(test_id=test.pk, arm="main", unit_hash="ann")
    world.answer(test_id=test.pk, arm="b", unit_hash="")
    results = arms.count(test)
    assert [arm.units for arm in results.arms] == [1, 0]
    assert (results.left_out.answers_of_unknown_arm, results.left_out.answers_without_unit) == (1, 1)


def test_results_come_in_few_queries_however_many_answers(world, make_test, say, django_assert_num_queries):
    test = make_test(world, weights=(70, 30))
    record_answers(
        [
            AnswerRecord(
                id=f"chatcmpl-{number}",
                workspace_id=world.workspace.pk,
                model_id=world.model.pk,
                version_id=(world.two if number % 10 >= 7 else world.one).pk,
                test_id=test.pk,
                arm="b" if number % 10 >= 7 else "a",
                unit_hash=f"u{number % 5000}",
                latency_ms=number % 500,
            )
            for number in range(10_000)
        ]
    )
    began = time.process_time()
    with django_assert_num_queries(4):
        results = arms.count(test)
    assert time.process_time() - began < 2  # SQLite runs in this process: a join without an index took longer
    assert [(arm.units, arm.answers) for arm in results.arms] == [(3500, 7000), (1500, 3000)]
    assert not results.left_out
