"""Pause, resume, limits, another try where it helps, what is offered after a failure, and when a job starts."""

import json
import shutil
import signal
from collections import namedtuple
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from project.jobs.actions import jobs
from project.jobs.expecting import expected_start
from project.jobs.models import DeviceSlot, Job, Metric, Worker
from project.jobs.testing import run_to_end
from project.jobs.tests.stack import Stack, ended, engines_in, stepping, until
from project.jobs.tests.test_launch import launch
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Forbidden, Invalid
from project.testing import Cast, run_manage


def actor(job: Job) -> Actor:
    return Actor.system("test", job.workspace)


def test_a_paused_job_keeps_what_it_did_and_goes_on(stack: Stack) -> None:
    stack.worker()
    job = stack.launch(steps=80, pause=0.05, checkpoint_every=10)
    attempt = stepping(job, 25)
    assert jobs.pause(job, by=actor(job)).state == "pausing"
    assert jobs.pause(job, by=actor(job)).state == "pausing"  # asking twice is fine
    until(lambda: Job.objects.get(pk=job.pk).state == "paused", "the pause")
    assert engines_in(stack.data) == []
    assert not DeviceSlot.objects.exclude(job=None).exists()
    attempt.refresh_from_db()
    assert (attempt.outcome, attempt.exit_code) == ("paused", 0)

    other = ended(stack.launch(steps=1))  # its place is free
    assert other.state == "succeeded"
    assert Job.objects.get(pk=job.pk).state == "paused"

    assert jobs.resume(job, by=actor(job)).state == "queued"
    job = ended(job)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 0)
    begun = Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step
    assert begun in (21, 31)  # after a checkpoint
    told = [event.body.get("state") for event in job.events.filter(type="state")]
    assert told == ["queued", "running", "pausing", "paused", "queued", "running", "succeeded"]


@pytest.mark.full
def test_a_pausing_job_whose_worker_dies_is_paused(stack: Stack) -> None:
    first = stack.worker()
    job = stack.launch("misbehave", how="deaf")
    until(job.events.filter(type="started").exists, "an engine")
    jobs.pause(job, by=actor(job))
    first.send_signal(signal.SIGKILL)
    first.wait()
    stack.worker()
    until(lambda: Job.objects.get(pk=job.pk).state == "paused", "the pause", 30)
    assert engines_in(stack.data) == []
    assert jobs.cancel(Job.objects.get(pk=job.pk), by=actor(job)).state == "cancelled"


@pytest.mark.full
def test_a_job_that_is_resumed_while_it_pauses_goes_on(stack: Stack) -> None:
    stack.worker()
    job = stack.launch(steps=60, pause=0.05, checkpoint_every=5)
    stepping(job, 10)
    jobs.pause(job, by=actor(job))
    assert jobs.resume(Job.objects.get(pk=job.pk), by=actor(job)).state in ("running", "queued")
    assert ended(job).state == "succeeded"


def test_who_may_pause_what(cast: Cast) -> None:
    job = launch(cast)
    with pytest.raises(Forbidden):
        jobs.pause(job, by=cast.actor("viewer"))
    assert jobs.pause(job, by=cast.actor("operator")).state == "paused"  # nobody worked on it
    with pytest.raises(Conflict, match="it can't be paused"):
        jobs.pause(launch(cast, start=False), by=cast.actor("teammate"))
    assert jobs.resume(job, by=cast.actor("teammate")).state == "queued"
    with pytest.raises(Conflict, match="only a paused one"):
        jobs.resume(job, by=cast.actor("teammate"))
    jobs.cancel(job, by=cast.actor("teammate"))
    with pytest.raises(Conflict, match="been cancelled already"):
        jobs.pause(job, by=cast.actor("teammate"))


def test_pause_and_resume_from_the_page_and_the_api(cast: Cast) -> None:
    job = launch(cast)
    page, api = cast.page("teammate"), cast.api("teammate")
    assert "Pause" in page.get(job.get_absolute_url()).content.decode()
    page.post(reverse("job-verb", args=[job.pk, "pause"]))
    html = page.get(job.get_absolute_url()).content.decode()
    assert "Paused by" in html and "It has not begun" in html and "Resume" in html
    assert api.post(f"/api/v1/jobs/{job.pk}/resume/").json()["state"] == "queued"
    assert api.post(f"/api/v1/jobs/{job.pk}/pause/").json()["state"] == "paused"
    assert cast.api("stranger").post(f"/api/v1/jobs/{job.pk}/resume/").status_code == 404
    assert f"{job.pk}/resume" not in cast.page("viewer").get(job.get_absolute_url()).content.decode()


@pytest.mark.full
def test_pause_and_resume_from_a_shell(stack: Stack) -> None:
    job = stack.launch(steps=3)

    def command(*arguments: str) -> dict[str, Any]:
        done = run_manage("job", *arguments, "--json", env=stack.environment())
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert command("pause", str(job.pk))["state"] == "paused"
    assert command("resume", str(job.pk)[-6:])["state"] == "queued"
    assert [row["job"] for row in command("list")["jobs"]] == [str(job.pk)]
    assert command("cancel", str(job.pk))["state"] == "cancelled"
    again = run_manage("job", "pause", str(job.pk), env=stack.environment())
    assert again.returncode == 1 and "been cancelled already" in again.stderr
    assert command("retry", str(job.pk))["state"] == "queued"


def test_out_of_device_memory_heals_itself(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="eats", params={}))
    assert (job.state, job.attempt) == ("succeeded", 3)
    assert job.result == {"batch_size": 2, "accumulation": 4}
    assert job.params["batch_size"] == 8  # what was asked for stays
    assert job.adjusted == {"batch_size": 2, "accumulation": 4}
    rows = Metric.objects.filter(job=job, key="rows").order_by("step").values_list("step", "attempt", "value")
    assert list(rows) == [(1, 1, 8.0), (2, 1, 8.0), (3, 3, 8.0), (4, 3, 8.0), (5, 3, 8.0), (6, 3, 8.0)]
    healed = [event.body for event in job.events.filter(type="state") if "adjusted" in event.body]
    assert [body["adjusted"]["batch_size"] for body in healed] == [4, 2]
    assert healed[0]["note"] == "accumulation 2 instead of 1, batch_size 4 instead of 8"
    html = cast.page("viewer").get(job.get_absolute_url()).content.decode()
    assert "Made to fit" in html and "batch_size 2" in html


def test_what_can_not_be_divided_fails_and_offers_what_may_help(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="eats", params={"batch_size": 1, "fits": 0}))
    assert (job.state, job.failure_class, job.attempt) == ("failed", "device_memory", 1)
    assert "can't be divided" in job.failure_message
    api, page = cast.api("teammate"), cast.page("teammate")
    offered = [{"key": "less", "label": "Retry with less of it"}]
    assert api.get(f"/api/v1/jobs/{job.pk}/").json()["remedies"] == offered
    assert "Retry with less of it" in page.get(job.get_absolute_url()).content.decode()
    wrong = api.post(f"/api/v1/jobs/{job.pk}/retry/", {"remedy": "magic"}, content_type="application/json")
    assert (wrong.status_code, list(wrong.json()["errors"])) == (400, ["remedy"])
    page.post(reverse("job-verb", args=[job.pk, "retry"]), {"remedy": "less"})
    again = Job.objects.get(retry_of=job)
    assert (again.state, again.params["fits"], job.params["fits"]) == ("queued", 1, 0)


MIB = 2**20


def test_what_does_not_fit_into_the_memory_limit_is_divided(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, not killed, so that it can say so."""
    monkeypatch.setattr("project.jobs.supervisor.LOOK", 0.1)
    job = run_to_end(launch(cast, recipe="eats", params={"hold_per_row": 60 * MIB, "fits": 99}, memory_limit=360 * MIB))
    assert (job.state, job.attempt, job.result["batch_size"]) == ("succeeded", 2, 4)
    first = job.attempts.get(number=1)
    assert (first.failure_class, first.signal) == ("host_memory", None)
    assert "its limit is 0.4 GiB" in first.message


def test_more_memory_than_allowed_ends_it(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes together, on a host where nobody can be refused anything."""
    monkeypatch.setattr("project.jobs.supervisor.LOOK", 0.2)
    monkeypatch.setattr("project.jobs.memory.allow", lambda *_: None)
    params = {"hold": 150 * MIB, "processes": 2, "fits": 99, "batch_size": 1}
    job = run_to_end(launch(cast, recipe="eats", params=params, memory_limit=256 * MIB))
    assert (job.state, job.failure_class, job.failure_field) == ("failed", "host_memory", "memory_limit")
    assert job.attempt == 1  # it would need as much again, and can't be divided
    assert "can't be divided" in job.failure_message


def test_a_job_has_its_time_over_all_tries(cast: Cast) -> None:
    job = launch(cast, params={"steps": 2000, "pause": 0.05}, time_limit=12)
    Job.objects.filter(pk=job.pk).update(worked=6)  # by an earlier try
    job = run_to_end(job)
    assert (job.state, job.failure_class, job.failure_field) == ("failed", "time_limit", "time_limit")
    assert "0:00:12" in job.failure_message
    assert job.worked >= 12
    assert job.attempts.get().exit_code == 0  # it was asked, not killed


def test_no_job_starts_on_a_full_disk(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10 * 2**30, 8 * 2**30, 2 * 2**30))
    job = run_to_end(launch(cast, recipe="eats", params={"hold": 3 * 2**30}))
    assert (job.state, job.failure_class) == ("failed", "storage_full")
    assert "2.0 GiB free" in job.failure_message and "4.0 GiB" in job.failure_message
    assert run_to_end(launch(cast)).state == "succeeded"


def test_what_may_be_adjusted(cast: Cast) -> None:
    job, api = launch(cast), cast.api("teammate")

    def adjust(person: str = "teammate", **values: Any) -> Any:
        address = f"/api/v1/jobs/{job.pk}/adjust/"
        return cast.api(person).post(address, values, content_type="application/json")

    assert adjust(priority=-5, time_limit=60).json()["time_limit"] == 60
    assert adjust(priority=5).status_code == 400  # before the others: only an operator
    assert adjust("operator", priority=5).json()["priority"] == 5
    assert list(adjust(time_limit=0).json()["errors"]) == ["time_limit"]
    assert list(adjust(memory_limit=1).json()["errors"]) == ["memory_limit"]
    assert adjust("viewer", priority=-1).status_code == 403
    api.post(f"/api/v1/jobs/{job.pk}/cancel/")
    assert adjust(priority=1).status_code == 409
    with pytest.raises(Invalid):
        launch(cast, time_limit=0)


def test_the_expected_start_is_told_from_what_runs_and_what_ran(cast: Cast) -> None:
    first, second = launch(cast), launch(cast)
    assert expected_start(second) is None  # nobody works on the queue
    Worker.objects.create(id="w", host="here", pid=1, queues=["cpu"], started_at=Now(), heartbeat_at=Now())
    slot = DeviceSlot.objects.create(host="here", queue="cpu", number=0)
    assert expected_start(second) is None  # how long such a job takes is not known
    assert (expected_start(first) or timezone.now()) <= timezone.now()  # a place is free
    for seconds in (50, 60, 900):
        old = launch(cast)
        Job.objects.filter(pk=old.pk).update(state="succeeded", finished_at=timezone.now(), worked=seconds)
    running = launch(cast)
    Job.objects.filter(pk=running.pk).update(
        state="running", started_at=timezone.now(), step=10, total=40, rate=1.0, progress_at=timezone.now()
    )
    DeviceSlot.objects.filter(pk=slot.pk).update(job=running)
    at = expected_start(second)
    assert at is not None and abs(at - timezone.now() - timedelta(seconds=30 + 60)) < timedelta(seconds=10)
    shown = cast.api("viewer").get(f"/api/v1/jobs/{second.pk}/").json()
    assert (shown["queue_position"], bool(shown["expected_start_at"])) == (2, True)
    assert "expected to start" in cast.page("viewer").get(second.get_absolute_url()).content.decode()
