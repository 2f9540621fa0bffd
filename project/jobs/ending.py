"""How a try ends, and what the job does next. Each function is one step of the states drawn in `Job`.

All of them expect a job that the caller has locked in the present transaction, and each frees the slot, closes the
attempt, writes the event and calls the app's handler there: a finished job never holds a slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from project.contracts.events import FailureClass
from project.jobs import journal, outcomes
from project.jobs.models import DeviceSlot, Job, JobAttempt, JobState, Outcome
from project.kernel.models import Artifact

# How often a try that was lost may be followed by another one, before the job fails.
LOSS_BUDGET = 3
LONGEST_PAUSE = 300.0  # seconds between two tries


@dataclass(frozen=True)
class Failure:
    """Why a job failed: a class, a sentence, what to do, the parameter to change, and the evidence."""

    failure: FailureClass
    message: str
    hint: str = ""
    field: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Exit:
    """How the engine's process ended; both None when nobody saw it."""

    code: int | None = None
    signal: int | None = None
    gone: bool = field(default=False)  # its host saw that no process is left


def succeed(job: Job, result: dict[str, Any], artifact: Artifact | None, *, exit: Exit) -> None:
    """Raises what the app's handler raises; then nothing of this may be committed."""
    result = outcomes.succeeded(job, result, artifact)
    _close(job, Outcome.SUCCEEDED, exit=exit)
    _finish(job, JobState.SUCCEEDED, result=result, artifact=artifact)


def fail(job: Job, why: Failure, *, exit: Exit, artifact: Artifact | None = None) -> None:
    """`artifact` is what a job that failed at its very end had made already."""
    _close(job, Outcome.FAILED, exit=exit, failure_class=why.failure, message=why.message)
    _finish(
        job,
        JobState.FAILED,
        failure_class=why.failure,
        failure_message=why.message,
        failure_hint=why.hint,
        failure_field=why.field[:200],
        failure_lines=[line[:2000] for line in why.lines],
        artifact=artifact,
    )
    outcomes.failed(job)


def cancel(job: Job, *, exit: Exit) -> None:
    """The engine is gone because somebody asked for it."""
    _close(job, Outcome.CANCELLED, exit=exit)
    _finish(job, JobState.CANCELLED)
    outcomes.failed(job)


def cancel_waiting(job: Job, *, by: str) -> None:
    """Nobody works on it: a draft, a queued or a paused job."""
    _finish(job, JobState.CANCELLED, said={"by": by})
    outcomes.failed(job)


def lose(job: Job, message: str, *, exit: Exit) -> None:
    """The try was lost to infrastructure: queue the job again, or fail it when that happened too often."""
    if job.cancel_requested_at is not None:
        cancel(job, exit=exit)
        return
    if job.losses >= LOSS_BUDGET:
        hint = "Its host or worker died each time. Look at the workers' logs, then retry."
        lost = f"{message} That was try {job.attempt}; it is not tried again."
        fail(job, Failure(FailureClass.INFRASTRUCTURE, lost, hint=hint), exit=exit)
        return
    pause = min(settings.JOB_BEAT * 2**job.losses, LONGEST_PAUSE)
    _close(job, Outcome.LOST, exit=exit, failure_class=FailureClass.INFRASTRUCTURE, message=message)
    _queue_again(job, message, losses=F("losses") + 1, run_after=Now() + timedelta(seconds=pause))


def drain(job: Job, *, exit: Exit) -> None:
    """The worker goes away (a deploy): another one goes on. Not a failure, and not counted as one."""
    if job.cancel_requested_at is not None:
        cancel(job, exit=exit)
        return
    _close(job, Outcome.DRAINED, exit=exit)
    _queue_again(job, "Its worker was stopped.", run_after=None)


def _queue_again(job: Job, reason: str, **also: Any) -> None:
    Job.objects.filter(pk=job.pk).update(
        state=JobState.QUEUED, lease_owner="", lease_until=None, suspected_at=None, rate=None, **also
    )
    job.refresh_from_db()
    journal.append(job, "state", state=job.state, reason=reason)


def _finish(job: Job, state: JobState, *, said: dict[str, Any] | None = None, **also: Any) -> None:
    Job.objects.filter(pk=job.pk).update(
        state=state, finished_at=Now(), lease_owner="", lease_until=None, suspected_at=None, rate=None, **also
    )
    job.refresh_from_db()
    words = {"message": job.failure_message, "failure": job.failure_class} if state == JobState.FAILED else {}
    journal.append(job, "state", state=job.state, **words, **(said or {}))


def _close(job: Job, outcome: Outcome, *, exit: Exit, **also: Any) -> None:
    JobAttempt.objects.filter(job=job, number=job.attempt).update(
        outcome=outcome,
        finished_at=Now(),
        exit_code=exit.code,
        signal=exit.signal,
        engine_gone=exit.gone,
        **also,
    )
    DeviceSlot.objects.filter(job=job).update(job=None, taken_at=None)
