"""A million points as few rows: what a chart shows is what the points say, however they were written."""

import itertools
import random
from typing import Any

import pytest
from django.utils import timezone

from project.contracts.events import Metrics
from project.jobs import charts, rollups, slots
from project.jobs.claim import Claim, claim
from project.jobs.ingest import Ingest
from project.jobs.models import Job, Metric, MetricRollup, Queue
from project.jobs.ownership import Ownership
from project.jobs.reading import Line
from project.jobs.tests.test_launch import launch
from project.kernel.models import Workspace
from project.testing import Cast


@pytest.fixture
def taken(cast: Cast) -> Claim:
    launch(cast)
    slots.ensure("here", Queue.CPU)
    found = claim(Queue.CPU, host="here", owner="me")
    assert found is not None
    return found


lines = itertools.count(1)


def say(ingest: Ingest, *points: tuple[int, dict[str, float]]) -> None:
    """One transaction with one line per point."""
    ingest.take(Line(next(lines), 0, Metrics(at=1000.0 + step, step=step, values=values)) for step, values in points)
    ingest.flush()


def next_attempt(own: Ownership) -> Ownership:
    Job.objects.filter(pk=own.job_id).update(attempt=own.attempt + 1)
    return Ownership(own.job_id, own.attempt + 1, own.owner)


def winners(key: str) -> dict[int, float]:
    return dict(Metric.objects.filter(key=key).order_by("step", "attempt").values_list("step", "value"))


def expected_rows(key: str) -> dict[tuple[int, int], tuple[Any, ...]]:
    """The complete stretches, worked out from the points in the plainest way."""
    points = winners(key)
    rows = {}
    for level in range(rollups.LEVELS):
        width = rollups.width(level)
        for bucket in {step // width for step in points} - {max(points) // width}:
            inside = {step: value for step, value in points.items() if step // width == bucket}
            rows[level, bucket] = (min(inside), max(inside), min(inside.values()), max(inside.values()), len(inside))
    return rows


def check(job_id: Any, key: str) -> None:
    columns = ("level", "bucket", "first_step", "last_step", "low", "high", "count", "low_step", "high_step")
    found = list(MetricRollup.objects.filter(job=job_id, key=key).values_list(*columns))
    assert {(row[0], row[1]): row[2:7] for row in found} == expected_rows(key)
    points = winners(key)
    for *_, low, high, _count, low_step, high_step in found:
        assert (points[low_step], points[high_step]) == (low, high)
    for level in (None, 0, 1, 2):
        assert sum(stretch.points for stretch in rollups.read(job_id, key, -1 if level is None else level)) == len(
            points
        )


@pytest.mark.parametrize("seed", range(4))
def test_roll_ups_say_what_the_points_say(cast: Cast, taken: Claim, seed: int) -> None:
    speak(taken.own, seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2))
def test_roll_ups_say_what_the_points_say_on_postgresql(services: Any, seed: int) -> None:
    """Where new points are copied, and what is said again is not."""
    workspace = Workspace.objects.create(name="Series", slug="series")
    facts = {"recipe": "count", "title": "count", "queue": "cpu", "state": "running", "attempt": 1, "lease_owner": "me"}
    job = Job.objects.create(workspace=workspace, **facts)
    speak(Ownership(job.pk, 1, "me"), seed)
    last = Metric.objects.filter(job=job).latest("step")
    assert (last.at.timestamp(), last.attempt) == (1000.0 + last.step, 3)


def speak(own: Ownership, seed: int) -> None:
    """Dense, sparse and jumping series; steps said again, in the same attempt and in later ones."""
    chance = random.Random(seed)
    at = 0
    for _ in range(3):
        ingest = Ingest(own)
        for _ in range(12):
            points = []
            for _ in range(chance.choice([1, 5, 200])):
                at += chance.choice([1, 1, 1, 40])
                values = {"dense": chance.random()} | ({"sparse": chance.random()} if chance.random() < 0.05 else {})
                points.append((at, values))
                if chance.random() < 0.02:
                    points.append((chance.randrange(at), {"dense": chance.uniform(-5, 5)}))
            say(ingest, *points)
        at = chance.randrange(at)  # the next attempt goes on from a checkpoint
        own = next_attempt(own)
    for key in ("dense", "sparse"):
        check(own.job_id, key)


def test_a_worker_that_takes_over_goes_on_with_the_stretch_it_finds(cast: Cast, taken: Claim) -> None:
    for begin in range(0, 2000, 7):  # every transaction by a new one
        say(Ingest(taken.own), *((step, {"loss": float(-step % 13)}) for step in range(begin, begin + 7)))
    check(taken.job_id, "loss")


def test_a_write_that_failed_is_complete_when_it_succeeds(cast: Cast, taken: Claim, monkeypatch: Any) -> None:
    from project.jobs import ingest as module

    ingest = Ingest(taken.own)
    say(ingest, *((step, {"loss": float(step)}) for step in range(100)))
    with monkeypatch.context() as patch:
        patch.setattr(module.journal, "hint", lambda job: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            say(ingest, *((step, {"loss": float(step)}) for step in range(100, 300)))
    say(ingest, *((step, {"loss": float(step)}) for step in range(300, 310)))
    assert len(winners("loss")) == 310
    check(taken.job_id, "loss")


def test_a_chart_shows_every_spike_at_its_step(cast: Cast, taken: Claim, django_assert_max_num_queries: Any) -> None:
    spikes = {5_003: 9.0, 17_777: -9.0, 29_999: 8.0}
    ingest = Ingest(taken.own)
    for begin in range(0, 30_000, 5_000):
        say(ingest, *((step, {"loss": spikes.get(step, step % 10 / 10)}) for step in range(begin, begin + 5_000)))
    job = Job.objects.get(pk=taken.job_id)
    with django_assert_max_num_queries(15):
        drawn = charts.series(job, ["loss"], px=100)["loss"]
    shown = dict(zip(drawn.steps, drawn.values, strict=True))
    assert {step: shown.get(step) for step in spikes} == spikes
    assert drawn.steps == sorted(set(drawn.steps)) and len(drawn.steps) <= 200
    assert drawn.count == 30_000
    points = winners("loss")
    assert all(points[step] == value for step, value in shown.items())


def test_a_long_chart_reads_stretches_not_points(cast: Cast, taken: Claim) -> None:
    say(Ingest(taken.own), *((step, {"loss": 1.0}) for step in range(20_000)))
    MetricRollup.objects.filter(level=0, bucket=7).update(high=77.0, high_step=115)
    MetricRollup.objects.filter(level=1, bucket=0).update(high=77.0, high_step=115)
    drawn = charts.series(Job.objects.get(pk=taken.job_id), ["loss"], px=100)["loss"]
    assert dict(zip(drawn.steps, drawn.values, strict=True))[115] == 77.0


def test_names_are_found_without_roll_ups_and_numbers_that_are_none_are_left_out(cast: Cast, taken: Claim) -> None:
    ingest = Ingest(taken.own)
    nan, inf = float("nan"), float("inf")
    say(ingest, (1, {"b": 1.0, "a\x00": 2.0, "broken": nan}), (2, {"b": inf}), (3, {"broken": nan}))
    job = Job.objects.get(pk=taken.job_id)
    assert charts.keys_of(job) == ["a", "b"]
    assert charts.keys_of(launch(cast)) == []
    assert winners("b") == {1: 1.0}
    assert job.latest == {"a": 2.0, "b": 1.0}


def test_roll_ups_go_with_their_job(cast: Cast, taken: Claim) -> None:
    say(Ingest(taken.own), *((step, {"loss": 1.0}) for step in range(50)))
    assert MetricRollup.objects.filter(job=taken.job_id).exists()
    Job.objects.get(pk=taken.job_id).delete()
    assert not MetricRollup.objects.exists()


def test_points_that_no_roll_up_covers_are_drawn_too(cast: Cast) -> None:
    job, now = launch(cast), timezone.now()
    rows = [
        Metric(job=job, key="loss", step=step, attempt=1, value=float(step == 4321), at=now) for step in range(9000)
    ]
    Metric.objects.bulk_create(rows, batch_size=2000)
    drawn = charts.series(job, ["loss"], px=100)["loss"]
    assert (4321, 1.0) in zip(drawn.steps, drawn.values, strict=True)
