"""Launching, starting, cancelling and retrying: what people may do, and what they are told."""

import pytest
from django.db import IntegrityError, transaction

from project.jobs.actions import jobs
from project.jobs.models import DeviceSlot, Job, JobEvent
from project.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from project.kernel.models import AuditEntry
from project.testing import Cast


def launch(cast: Cast, *, by: str = "teammate", **changes: object) -> Job:
    values = {"recipe": "count", "params": {"steps": 3}, "title": "Count to three", **changes}
    recipe, params = values.pop("recipe"), values.pop("params")
    return jobs.launch(recipe, params, workspace=cast.workspace, by=cast.actor(by), **values)  # type: ignore[arg-type]


def test_a_launched_job_is_queued_with_complete_parameters(cast: Cast) -> None:
    job = launch(cast)
    assert (job.state, job.queue, job.attempt) == ("queued", "cpu", 0)
    assert job.params == {"steps": 3, "pause": 0.0, "checkpoint_every": 0, "keep_checkpoints": 0, "seed": 0}
    assert [event.body["state"] for event in job.events.all()] == ["queued"]
    assert AuditEntry.objects.filter(verb="job.created", object_id=str(job.pk)).count() == 1


def test_a_draft_waits_for_start(cast: Cast) -> None:
    job = launch(cast, start=False)
    assert job.state == "draft"
    assert jobs.start(job, by=cast.actor("teammate")).state == "queued"
    with pytest.raises(Conflict, match="only a draft"):
        jobs.start(job, by=cast.actor("teammate"))


def test_an_unknown_recipe_is_named_with_the_nearest(cast: Cast) -> None:
    with pytest.raises(Invalid) as caught:
        launch(cast, recipe="cuont")
    assert caught.value.errors == {"recipe": ["Unknown recipe 'cuont'. Did you mean 'count'?"]}
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"pause": -1}, "pause"),
        ({"pause": float("inf")}, "pause"),
        ({"stepps": 3}, "stepps"),
    ],
)
def test_wrong_parameters_are_named(cast: Cast, params: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        launch(cast, params=params)
    assert list(caught.value.errors) == [field]
    assert not Job.objects.exists()


def test_viewers_may_not_launch_and_strangers_see_nothing(cast: Cast) -> None:
    with pytest.raises(Forbidden):
        launch(cast, by="viewer")
    with pytest.raises(NotFound):
        jobs.launch("count", {}, workspace=cast.workspace, by=cast.actor("stranger"), title="x")
    with pytest.raises(NotFound):
        jobs.cancel(launch(cast), by=cast.actor("stranger"))


def test_a_queued_job_is_cancelled_at_once(cast: Cast) -> None:
    job = jobs.cancel(launch(cast), by=cast.actor("teammate"))
    assert job.state == "cancelled"
    assert job.finished_at is not None
    with pytest.raises(Conflict, match="been cancelled already"):
        jobs.cancel(job, by=cast.actor("teammate"))


def test_others_jobs_are_cancelled_by_operators_only(cast: Cast) -> None:
    job = launch(cast, by="owner")
    with pytest.raises(Forbidden):
        jobs.cancel(job, by=cast.actor("teammate"))
    assert jobs.cancel(job, by=cast.actor("operator")).state == "cancelled"


def test_a_retry_is_a_new_job(cast: Cast) -> None:
    old = launch(cast)
    with pytest.raises(Conflict, match="cancel it first"):
        jobs.retry(old, by=cast.actor("teammate"))
    new = jobs.retry(jobs.cancel(old, by=cast.actor("teammate")), by=cast.actor("teammate"))
    assert (new.state, new.retry_of, new.params) == ("queued", old, old.params)


@pytest.mark.parametrize("change", [{"state": "running"}, {"state": "succeeded"}])
def test_the_database_keeps_an_ended_job_ended(cast: Cast, change: dict[str, object]) -> None:
    job = jobs.cancel(launch(cast), by=cast.actor("teammate"))
    with pytest.raises(IntegrityError, match="keeps its state"), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(**change)


def test_the_database_lets_an_attempt_only_grow_and_events_stay(cast: Cast) -> None:
    job = launch(cast)
    Job.objects.filter(pk=job.pk).update(attempt=2)
    with pytest.raises(IntegrityError, match="only grows"), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(attempt=1)
    with pytest.raises(IntegrityError, match="not changed"), transaction.atomic():
        JobEvent.objects.filter(job=job).update(type="other")


def test_the_queue_is_ordered_by_priority_then_age(cast: Cast) -> None:
    first, second, urgent = launch(cast), launch(cast), launch(cast, by="operator", priority=5)
    assert [job.position() for job in (first, second, urgent)] == [2, 3, 1]
    assert not DeviceSlot.objects.exists()
