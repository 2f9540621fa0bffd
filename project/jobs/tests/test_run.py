"""A job from claim to end with a real engine process, supervised in this process."""

import json
import os

import psutil
import pytest
from django.db import connection
from django.utils import timezone

from project.contracts.events import FailureClass
from project.jobs import outcomes, retries
from project.jobs.actions import jobs
from project.jobs.ending import LONGEST, Failure
from project.jobs.models import DeviceSlot, Job, Metric
from project.jobs.testing import run_to_end
from project.jobs.tests.test_launch import launch
from project.kernel import artifacts
from project.kernel.actions import endpoints
from project.kernel.errors import Conflict, Forbidden, NotFound
from project.kernel.models import Artifact, AuditEntry, Endpoint
from project.modeling.tests.chat_server import chat_server
from project.testing import Cast


def processes_of(job: Job) -> list[int]:
    """Living processes with this job's run folder in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(job.pk) in part for part in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_job_succeeds_with_its_artifact_events_and_metrics(cast: Cast) -> None:
    job = run_to_end(launch(cast, params={"steps": 5, "checkpoint_every": 2}))
    assert (job.state, job.attempt, job.failure_message) == ("succeeded", 1, "")
    assert job.result == {"counted": 5}
    assert (job.step, job.total, job.percent) == (5, 5, 100.0)
    assert job.artifact is not None and artifacts.verify(job.artifact) == []
    assert artifacts.open_file(job.artifact, "count.txt").read() == b"5"
    assert list(job.events.values_list("seq", flat=True)) == list(range(1, job.last_seq + 1))
    losses = Metric.objects.filter(job=job, key="loss").order_by("step").values_list("step", "value")
    assert list(losses) == [(step, 1 / step) for step in range(1, 6)]
    assert [event.body["step"] for event in job.events.filter(type="checkpoint")] == [2, 4]
    attempt = job.attempts.get()
    assert (attempt.outcome, attempt.exit_code, attempt.engine_gone) == ("succeeded", 0, True)
    assert not DeviceSlot.objects.exclude(job=None).exists()
    assert processes_of(job) == []


@pytest.mark.parametrize(
    ("how", "failure", "words"),
    [
        ("user error", "user_error", "The data set is empty."),
        ("crash", "crash", "ZeroDivisionError: division by zero"),
        ("host memory", "host_memory", "The host ran out of memory."),
        ("disk full", "storage_full", "The disk is full"),
        ("no result", "user_error", "The parameters are not valid"),
        ("exit", "crash", "SystemExit: 3"),
    ],
)
def test_a_failure_has_a_class_and_words(cast: Cast, how: str, failure: str, words: str) -> None:
    job = launch(cast, recipe="misbehave", params={"how": "crash"})
    Job.objects.filter(pk=job.pk).update(params={"how": how if how != "no result" else "unheard of"})
    job = run_to_end(job)
    assert (job.state, job.failure_class) == ("failed", failure)
    again = how in ("crash", "exit", "host memory")  # once more, in case that it was bad luck
    assert job.attempt == (2 if again else 1)
    assert ("with nothing saved in between" in job.failure_message) == again
    assert words in job.failure_message
    if how == "user error":
        assert (job.failure_hint, job.failure_field) == ("Import some rows.", "data.dataset")
    if how == "crash":
        assert any("ZeroDivisionError" in line for line in job.failure_lines)
    assert job.artifact is None
    assert not DeviceSlot.objects.exclude(job=None).exists()


def test_the_engine_sees_no_secret(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "HUGGINGFACE_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "do-not-tell")
    job = run_to_end(launch(cast, recipe="surroundings", params={}))
    seen = json.loads(artifacts.open_file(Artifact.objects.get(), "environment.json").read())
    assert job.state == "succeeded"
    assert "do-not-tell" not in seen.values()
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert "PATH" in seen and "DATA_PATH" not in seen
    assert job.result["group"] == job.result["session"] == job.attempts.get().pid
    assert job.result["group"] != os.getpgrp()


def test_a_declared_secret_arrives_and_lies_nowhere(cast: Cast, settings: object) -> None:
    settings.HUGGINGFACE_TOKEN = "hf-do-not-store"  # type: ignore[attr-defined]
    job = run_to_end(launch(cast, recipe="hub", params={}))
    assert job.result["token_length"] == len("hf-do-not-store")
    assert job.result["in_proc"] is False
    written = [path for path in job.run_folder(1).rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"hf-do-not-store" in path.read_bytes()]


def test_an_endpoint_is_stored_by_its_id_and_its_token_lies_nowhere(cast: Cast, settings: object) -> None:
    settings.OUTGOING_ALLOW = ["127.0.0.1"]  # type: ignore[attr-defined]
    token = "sk-handed-over-0123456789"
    with chat_server(lambda body: "I am.", token=token) as server:
        endpoint = endpoints.create(name="lab", url=server.url, model="tiny", token=token, by=cast.actor("operator"))
        job = run_to_end(launch(cast, recipe="calls", params={}, inputs={"writer": endpoint}))
    assert job.result == {"answer": "I am.", "length": len(token), "shown": False}
    assert job.inputs == {"writer": {"endpoint": str(endpoint.pk)}}
    written = [path for path in job.run_folder(1).rglob("*") if path.is_file()]
    assert any(path.name == "spec.json" for path in written)
    assert not [path for path in written if token.encode() in path.read_bytes()]
    told = cast.api("owner").get(f"/api/v1/jobs/{job.pk}/").content + cast.page("owner").get(f"/jobs/{job.pk}/").content
    assert token.encode() not in told
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            assert token not in repr(cursor.fetchall()), table


def test_an_endpoint_of_others_or_a_deleted_one_is_not_called(cast: Cast) -> None:
    by = cast.actor("operator")
    endpoint = endpoints.create(name="lab", url="https://api.example.com/v1", model="m", token="t", by=by)
    with pytest.raises(Forbidden, match="'use' on a endpoint"):
        jobs.launch(
            "calls",
            {},
            workspace=cast.workspace,
            by=cast.actor("viewer"),
            title="Call",
            inputs={"writer": endpoint},
            verb="workspace.read",
        )
    theirs = endpoints.create(name="lab", url="https://api.example.com/v1", model="m", by=cast.actor("stranger"))
    with pytest.raises(NotFound):
        launch(cast, recipe="calls", params={}, inputs={"writer": theirs})
    job = launch(cast, recipe="calls", params={}, inputs={"writer": endpoint})
    Endpoint.objects.filter(pk=endpoint.pk).delete()  # as an operator's shell can
    job = run_to_end(job)
    assert (job.state, job.failure_class) == ("failed", "user_error")
    assert "has been deleted" in job.failure_message


def test_an_endpoint_stays_while_a_job_needs_it_and_tells_who_used_it(cast: Cast) -> None:
    by, page = cast.actor("operator"), cast.page("operator")
    endpoint = endpoints.create(name="lab", url="https://api.example.com/v1", model="m", token="t", by=by)
    job = launch(cast, recipe="calls", params={}, inputs={"writer": endpoint})
    with pytest.raises(Conflict, match=f"lab is still needed by '{job.title}'"):
        endpoints.delete(endpoint, by=by)
    said = page.post(f"/endpoints/{endpoint.pk}/delete/", follow=True).content.decode()
    assert "is still needed by" in said and Endpoint.objects.filter(pk=endpoint.pk).exists()
    history = page.get(f"/endpoints/{endpoint.pk}/").content.decode()
    assert "Used by a job" in history and f"/jobs/{job.pk}/" in history and "Created" in history
    jobs.cancel(job, by=by)
    endpoints.delete(endpoint, by=by)
    assert AuditEntry.objects.get(verb="endpoint.used").data["job"] == str(job.pk)


def test_what_follows_a_success_is_part_of_it(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_handlers", {})
    seen = []
    outcomes.register("count", on_success=lambda job, result, artifact: seen.append((result, artifact)) or {"made": 7})
    job = run_to_end(launch(cast))
    assert seen == [({"counted": 3}, job.artifact)]
    assert job.result == {"counted": 3, "made": 7}


def test_a_result_that_is_refused_fails_the_job_and_keeps_its_files(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: Job, result: dict[str, object], artifact: Artifact | None) -> None:
        Artifact.objects.create(workspace=job.workspace, kind="x", key="half-written", manifest=[], digest="", size=0)
        raise Conflict("The name is taken.")

    failed = []
    monkeypatch.setattr(outcomes, "_handlers", {})
    outcomes.register("count", on_success=refuse, on_failure=lambda job: failed.append(job.state))
    job = run_to_end(launch(cast))
    assert (job.state, job.failure_class, job.failure_message) == ("failed", "user_error", "The name is taken.")
    assert failed == ["failed"]
    assert list(Artifact.objects.all()) == [job.artifact]
    assert job.artifact is not None and artifacts.verify(job.artifact) == []


def test_a_missing_input_is_named(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="reads", params={}, inputs={"data": "/nowhere/at/all"}))
    assert (job.state, job.failure_class, job.failure_field) == ("failed", "user_error", "data")


def test_a_retry_runs(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="misbehave", params={"how": "crash"}))
    again = run_to_end(jobs.retry(job, by=cast.actor("teammate")))
    assert (again.state, again.retry_of) == ("failed", job)


def test_what_an_engine_wrote_while_nothing_could_be_taken_is_read_at_its_end(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a database that was away: more has been written than a supervisor keeps in memory."""
    monkeypatch.setattr("project.jobs.ingest.MOST_WAITING", 3)
    monkeypatch.setattr("project.jobs.reading.MOST_AT_ONCE", 300)
    monkeypatch.setattr("project.jobs.supervisor.FLUSH", ((1e9, 1e9),))
    monkeypatch.setattr("project.jobs.supervisor.LOOKS", 1e-10)
    job = run_to_end(launch(cast, params={"steps": 40, "checkpoint_every": 10}))
    assert job.state == "succeeded"
    assert list(Metric.objects.filter(job=job, key="loss").order_by("step").values_list("step", flat=True)) == [
        *range(1, 41)
    ]
    assert job.checkpoints.count() == 4


def test_a_reason_with_what_no_database_takes_is_still_a_reason() -> None:
    why = Failure(FailureClass.USER_ERROR, "a\x00b" + "c" * 10_000, "d\x00", "e\x00", ["f\x00g"])
    assert (why.message[:3], len(why.message), why.hint, why.field, why.lines) == ("abc", LONGEST, "d", "e", ["fg"])


def test_saving_the_same_again_is_no_progress(cast: Cast) -> None:
    """Tries that begin anew and die at the same place come to an end, although each of them saves."""
    job = launch(cast)
    now = timezone.now()
    Job.objects.filter(pk=job.pk).update(attempt=4)
    job.refresh_from_db()
    for number, steps in ((1, (100,)), (2, (50, 100)), (3, (100,)), (4, (100,))):
        job.attempts.create(number=number, host="h", owner="o", started_at=now, outcome="failed", failure_class="crash")
        for step in steps:
            job.checkpoints.create(attempt=number, step=step, at=now, host="h", path="p")
    assert isinstance(retries.judge(job, FailureClass.CRASH, "boom"), retries.Enough)
    job.checkpoints.create(attempt=4, step=150, at=now, host="h", path="p")
    assert isinstance(retries.judge(job, FailureClass.CRASH, "boom"), retries.Again)
