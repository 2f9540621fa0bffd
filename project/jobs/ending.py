"""How a try ends, and what the job does next. Each function is one step of the states drawn in `Job`.

All of them expect a job that the caller has locked in the present transaction, and each frees the slot, closes the
attempt, writes the event and calls the app's handler there: a finished job never holds a slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from project.contracts.events import FailureClass
from project.jobs import doorbell, journal, outcomes, retries
from project.jobs.models import DeviceSlot, Job, JobAttempt, JobState, Outcome
from project.kernel.models import Artifact

LONGEST = 4000  # characters of a reason


@dataclass(frozen=True)
class Failure:
    """Why a try failed: a class, a sentence, what to do, the parameter to change, and the evidence."""

    failure: FailureClass
    message: str
    hint: str = ""
    field: str = ""
    lines: Sequence[str] = ()
    final: bool = False  # the same work, tried again, would end the same way

    def __post_init__(self) -> None:
        """Whatever an engine or a server said: no database takes a NUL, and nobody reads a book."""
        for name in ("message", "hint", "field"):
            object.__setattr__(self, name, getattr(self, name).replace("\x00", "")[:LONGEST])
        object.__setattr__(self, "lines", [line.replace("\x00", "") for line in self.lines])


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
    """Try again where that may help (`retries`), else the job has failed.

    `artifact` is what a job that failed at its very end had made already: such a job is not run again.
    """
    if job.cancel_requested_at is not None:
        cancel(job, exit=exit)
        return
    next_step = retries.judge(job, why.failure, why.message, final=why.final) if not artifact else retries.Enough()
    outcome = Outcome.LOST if why.failure == FailureClass.INFRASTRUCTURE else Outcome.FAILED
    _close(job, outcome, exit=exit, failure_class=why.failure, message=why.message)
    if isinstance(next_step, retries.Again):
        _go_on(job, why, next_step)
    else:
        _fail(job, why, next_step.why, artifact)


def _go_on(job: Job, why: Failure, again: retries.Again) -> None:
    _queue_again(
        job,
        why.message,
        said={"failure": why.failure, **({"adjusted": again.adjusted, "note": again.note} if again.adjusted else {})},
        losses=F("losses") + int(why.failure == FailureClass.INFRASTRUCTURE),
        run_after=Now() + timedelta(seconds=again.pause) if again.pause else None,
        adjusted={**job.adjusted, **again.adjusted},
    )


def _fail(job: Job, why: Failure, also: str, artifact: Artifact | None) -> None:
    hint = why.hint
    if not hint and why.failure == FailureClass.INFRASTRUCTURE:
        hint = "Its host or worker died each time. Look at the workers' logs, then retry."
    _finish(
        job,
        JobState.FAILED,
        failure_class=why.failure,
        failure_message=f"{why.message} {also}".strip(),
        failure_hint=hint,
        failure_field=why.field[:200],
        failure_lines=[line[:2000] for line in why.lines],
        artifact=artifact,
    )
    outcomes.failed(job)


def lose(job: Job, message: str, *, exit: Exit) -> None:
    """The try was lost to infrastructure, which is not the job's fault."""
    fail(job, Failure(FailureClass.INFRASTRUCTURE, message), exit=exit)


def cancel(job: Job, *, exit: Exit) -> None:
    """The engine is gone because somebody asked for it."""
    _close(job, Outcome.CANCELLED, exit=exit)
    _finish(job, JobState.CANCELLED)
    outcomes.failed(job)


def cancel_waiting(job: Job, *, by: str) -> None:
    """Nobody works on it: a draft, a queued or a paused job."""
    _finish(job, JobState.CANCELLED, said={"by": by})
    outcomes.failed(job)


def stop(job: Job, *, exit: Exit, reason: str) -> None:
    """The engine was asked to stop and is gone: cancelled, paused, or queued again, as the row says now.

    Not a failure, and not counted as one. `reason` is why a job that nobody wanted to stop goes back to the queue.
    """
    if job.cancel_requested_at is not None:
        cancel(job, exit=exit)
        return
    pausing = job.state == JobState.PAUSING
    _close(job, Outcome.PAUSED if pausing else Outcome.DRAINED, exit=exit)
    _queue_again(job, "" if pausing else reason, run_after=None)


def _queue_again(job: Job, reason: str, *, said: dict[str, Any] | None = None, **also: Any) -> None:
    """Back to the queue; a job that somebody wanted to pause is paused instead."""
    state = JobState.PAUSED if job.state == JobState.PAUSING else JobState.QUEUED
    Job.objects.filter(pk=job.pk).update(
        state=state, lease_owner="", lease_until=None, suspected_at=None, rate=None, **also
    )
    job.refresh_from_db()
    journal.append(job, "state", state=job.state, **({"reason": reason} if reason else {}), **(said or {}))
    if state == JobState.QUEUED:
        doorbell.ring(job.pk, job.queue)


def _finish(job: Job, state: JobState, *, said: dict[str, Any] | None = None, **also: Any) -> None:
    Job.objects.filter(pk=job.pk).update(
        state=state, finished_at=Now(), lease_owner="", lease_until=None, suspected_at=None, rate=None, **also
    )
    job.refresh_from_db()
    words = {"message": job.failure_message, "failure": job.failure_class} if state == JobState.FAILED else {}
    journal.append(job, "state", state=job.state, **words, **(said or {}))


def _close(job: Job, outcome: Outcome, *, exit: Exit, **also: Any) -> None:
    attempts = JobAttempt.objects.filter(job=job, number=job.attempt)
    attempts.update(
        outcome=outcome,
        finished_at=Now(),
        exit_code=exit.code,
        signal=exit.signal,
        engine_gone=exit.gone,
        **also,
    )
    for attempt in attempts:
        Job.objects.filter(pk=job.pk).update(worked=F("worked") + attempt.duration.total_seconds())
    DeviceSlot.objects.filter(job=job).update(job=None, taken_at=None)
