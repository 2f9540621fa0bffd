"""Where another try starts from: the furthest checkpoint that is right in every byte, or the one before."""

import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.storage import storages
from django.utils import timezone

from project.contracts.runs import RunSpec
from project.jobs import keeping, policy, slots
from project.jobs.claim import claim
from project.jobs.identity import Identity
from project.jobs.models import Checkpoint, Job, Metric
from project.jobs.supervisor import Supervisor
from project.jobs.testing import run_to_end
from project.jobs.tests.test_launch import launch
from project.kernel import artifacts
from project.kernel.models import Artifact
from project.testing import Cast


def run_until(job: Job, step: int) -> Job:
    """One try at `job`, given back by its worker once the checkpoint of `step` is there."""
    slots.ensure(settings.HOST_NAME, job.queue)
    taken = claim(job.queue, host=settings.HOST_NAME, owner=str(Identity.mine()), job_id=job.pk)
    assert taken is not None
    draining, marker = threading.Event(), job.run_folder(taken.own.attempt) / "checkpoints" / f"step-{step:08d}/COMMIT"

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        draining.set()

    watching = threading.Thread(target=watch)
    watching.start()
    Supervisor(taken, draining=draining).run()
    watching.join()
    job.refresh_from_db()
    assert job.state == "queued"
    return job


def interrupted(cast: Cast, **params: object) -> Job:
    """A job of 200 steps that was given back after the checkpoint of step 6."""
    return run_until(launch(cast, params={"steps": 200, "pause": 0.02, "checkpoint_every": 2, **params}), step=6)


def finish(job: Job) -> Job:
    Job.objects.filter(pk=job.pk).update(params={**job.params, "steps": job.step + 5, "pause": 0})
    job.refresh_from_db()
    return run_to_end(job)


def resumed_from(job: Job) -> Path | None:
    spec = RunSpec.model_validate_json((job.run_folder(job.attempt) / "spec.json").read_bytes())
    return Path(spec.resume_from) if spec.resume_from else None


def warnings(job: Job) -> list[str]:
    return [event.body["message"] for event in job.events.filter(type="log") if event.body["level"] == "warning"]


def test_every_checkpoint_is_written_down_with_its_numbers(cast: Cast) -> None:
    job = run_to_end(launch(cast, params={"steps": 5, "checkpoint_every": 2}))
    last, first = Checkpoint.objects.filter(job=job)
    assert (first.step, last.step, last.attempt, last.host) == (2, 4, 1, settings.HOST_NAME)
    assert (last.metrics, last.state, last.is_usable) == ({"loss": 1 / 4}, "here", True)
    assert last.size == (last.folder / "state.json").stat().st_size and len(last.digest) == 64


def test_the_furthest_one_is_used(cast: Cast) -> None:
    job = interrupted(cast)
    last = job.checkpoints.first()
    assert last is not None and last.step >= 6
    job = finish(job)
    assert job.state == "succeeded"
    assert resumed_from(job) == last.folder
    assert Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step == last.step + 1
    assert warnings(job) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "uncommit", "exchange"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(cast: Cast, damage: str) -> None:
    job = interrupted(cast)
    last, before, *_ = job.checkpoints.all()
    file = last.folder / "state.json"
    raw = file.read_bytes()
    if damage == "flip":
        file.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    elif damage == "cut":
        file.write_bytes(raw[:-1])
    elif damage == "delete":
        file.unlink()
    elif damage == "uncommit":
        (last.folder / "COMMIT").unlink()
    else:  # whole, but not what was announced
        for name in ("state.json", "manifest.json", "COMMIT"):
            (last.folder / name).write_bytes((before.folder / name).read_bytes())
    job = finish(job)
    assert job.state == "succeeded"
    assert resumed_from(job) == before.folder
    [said] = warnings(job)
    assert f"checkpoint at step {last.step}" in said and f"goes on from the checkpoint at step {before.step}" in said
    last.refresh_from_db()
    assert last.state == "damaged" and not last.is_usable


def test_with_none_left_it_begins_anew_and_says_so(cast: Cast) -> None:
    job = interrupted(cast)
    for row in job.checkpoints.all():
        (row.folder / "manifest.json").write_text("{}")
    job = finish(job)
    assert job.state == "succeeded" and resumed_from(job) is None
    assert len(warnings(job)) == job.checkpoints.filter(attempt=1).count() and all(
        "begins anew" in said for said in warnings(job)
    )
    assert Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step == 1


def test_one_whose_files_were_removed_is_passed_over(cast: Cast) -> None:
    job = interrupted(cast)
    last, before, *_ = job.checkpoints.all()
    shutil.rmtree(last.folder)
    assert (last.state, last.is_usable) == ("gone", False)
    assert resumed_from(finish(job)) == before.folder


def test_the_newest_and_the_best_are_kept_and_the_rest_is_marked(cast: Cast) -> None:
    job = run_to_end(launch(cast, params={"steps": 10, "checkpoint_every": 2, "keep_checkpoints": 2}))
    states = [(row.step, row.state, row.is_usable) for row in job.checkpoints.all()]
    assert states == [(10, "here", True), (8, "here", True), *((step, "gone", False) for step in (6, 4, 2))]


def test_the_policy_keeps_the_lowest_held_out_loss_of_all_tries(cast: Cast) -> None:
    job = launch(cast, params={"keep_checkpoints": 1})
    for attempt, step, eval_loss in ((1, 2, 0.5), (1, 4, 0.7), (2, 6, 0.6), (2, 8, None)):
        measured = {} if eval_loss is None else {"eval_loss": eval_loss}
        row = Checkpoint(job=job, attempt=attempt, step=step, at=timezone.now(), host="h", path="p", metrics=measured)
        policy.write(job, [row])
    assert [row.step for row in job.checkpoints.filter(deleted_at=None)] == [8, 2]


def ended_days_ago(job: Job, days: float) -> Job:
    Job.objects.filter(pk=job.pk).update(finished_at=timezone.now() - timedelta(days=days))
    return job


def test_what_ended_long_ago_is_cleared_and_nothing_else(cast: Cast) -> None:
    params = {"steps": 4, "checkpoint_every": 2}
    old = ended_days_ago(run_to_end(launch(cast, params=params)), settings.KEEP_CHECKPOINTS_DAYS + 1)
    recent = ended_days_ago(run_to_end(launch(cast, params=params)), settings.KEEP_CHECKPOINTS_DAYS - 1)
    paused = interrupted(cast)
    Job.objects.filter(pk=paused.pk).update(state="paused", created_at=timezone.now() - timedelta(days=999))
    keeping.clear_old()
    assert not old.run_folder(1).exists()
    assert {row.state for row in old.checkpoints.all()} == {"gone"}
    for job in (recent, paused):
        assert job.run_folder(1).exists()
        assert {row.state for row in job.checkpoints.all()} == {"here"}


def test_one_that_a_waiting_job_is_to_start_from_outlives_its_job(cast: Cast) -> None:
    old = run_to_end(launch(cast, params={"steps": 4, "checkpoint_every": 2}))
    ended_days_ago(old, settings.KEEP_CHECKPOINTS_DAYS + 1)
    last = old.checkpoints.get(step=4)
    waiting = launch(cast, params={"steps": 6})
    Job.objects.filter(pk=waiting.pk).update(start_checkpoint=last)
    keeping.clear_old()
    assert [row.deleted_at is None for row in old.checkpoints.all()] == [True, False]
    waiting.refresh_from_db()
    done = run_to_end(waiting)
    assert done.state == "succeeded" and resumed_from(done) == last.folder
    keeping.clear_old()
    assert not old.run_folder(1).exists()


def stored(row: Checkpoint) -> Checkpoint:
    """`row` as on another host: its files are in the store, and not here."""
    row.artifact = artifacts.store_tree(row.folder, workspace=row.job.workspace, kind="checkpoint")
    row.save()
    shutil.rmtree(row.folder)
    return row


def test_a_stored_one_is_brought_here(cast: Cast) -> None:
    job = interrupted(cast)
    last = stored(job.checkpoints.all()[0])
    assert (last.state, last.is_usable) == ("stored", True)
    job = finish(job)
    assert job.state == "succeeded"
    assert resumed_from(job) == job.run_folder(2) / "restored" / f"step-{last.step:08d}"
    assert Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step == last.step + 1


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_stored_one_is_passed_over_too(cast: Cast, damage: str) -> None:
    job = interrupted(cast)
    last, before = (stored(row) for row in job.checkpoints.all()[:2])
    assert last.artifact is not None
    file = Path(storages["artifacts"].path(f"{last.artifact.key}/state.json"))
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(b"!" + file.read_bytes()[1:])
    job = finish(job)
    assert job.state == "succeeded"
    assert resumed_from(job) == job.run_folder(2) / "restored" / f"step-{before.step:08d}"
    [said] = warnings(job)
    assert f"checkpoint at step {last.step} can't be used: its stored copy is damaged" in said


def test_a_store_that_does_not_answer_is_no_reason_to_begin_anew(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    job = interrupted(cast)
    for row in job.checkpoints.all():
        stored(row)

    def unreachable(*_: object) -> None:
        raise ConnectionError("no route to the store")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "download", unreachable)
        Job.objects.filter(pk=job.pk).update(losses=0)
        taken = claim(job.queue, host=settings.HOST_NAME, owner=str(Identity.mine()), job_id=job.pk)
        assert taken is not None
        Supervisor(taken).run()
    job.refresh_from_db()
    assert (job.state, job.attempts.get(number=2).failure_class) == ("queued", "infrastructure")
    assert not job.checkpoints.exclude(damage="").exists()
    job = finish(job)
    assert job.state == "succeeded" and resumed_from(job) is not None


def test_of_several_that_wait_for_the_store_the_newest_is_sent_first(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    upload = artifacts.upload_tree

    def slow(folder: Path, **more: Any) -> Artifact:
        if not sent:  # until the training is some checkpoints ahead, and the supervisor has written that down
            ahead, deadline = len(list(folder.parent.iterdir())) + 10, time.monotonic() + 10
            while len(list(folder.parent.iterdir())) < ahead and time.monotonic() < deadline:
                time.sleep(0.01)
        sent.append(int(folder.name.removeprefix("step-")))
        return upload(folder, **more)

    monkeypatch.setattr(artifacts, "is_shared", lambda: True)
    monkeypatch.setattr(artifacts, "upload_tree", slow)
    job = run_until(launch(cast, params={"steps": 200, "pause": 0.02, "checkpoint_every": 2}), step=60)
    assert sent[1] > sent[0] + 2
    assert {row.step for row in job.checkpoints.exclude(artifact=None)} == set(sent)
    assert job.checkpoints.all()[0].artifact is not None  # whoever goes on may be on another host
