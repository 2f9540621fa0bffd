"""The ten promises of the jobs machinery, checked against the tables, the store and the process list."""

import time
from collections import Counter
from itertools import pairwise

import psutil
from django.db.models import QuerySet
from django.utils import timezone

from project.jobs import charts
from project.jobs.models import TERMINAL, DeviceSlot, Job, JobAttempt, JobEvent, Metric, Outcome
from project.jobs.tests.stack import Stack, children_of, processes_below
from project.kernel import artifacts

COUNTING = ("count", "tally", "fragile")  # say 1/step at each step, and who made the result
LAST_BREATH = 10.0  # seconds
SLACK = 0.1  # seconds between the engine's clock and the database's, which are one clock here


class BrokenPromise(AssertionError):
    """Names the promise by its number in the design, and the job."""


def check_promises(stack: Stack, *, unfinished: tuple[Job, ...] = ()) -> None:
    """What must hold once everything has come to rest, whatever happened on the way. Raises BrokenPromise.

    `unfinished` names the jobs that are meant to wait: drafts, and paused ones that nobody resumed.
    """
    waiting = {job.pk for job in unfinished}
    for job in Job.objects.all():
        _check_states(job, waits=job.pk in waiting)
        _check_events(job)
        _check_attempts(job)
        _check_artifact(job)
        _check_metrics(job)
    _check_places()
    _check_processes(stack)


def promise(number: int, kept: bool, job: Job | str, words: str) -> None:
    if not kept:
        where = f"job {job.pk} ({job}, {job.state}, attempt {job.attempt})" if isinstance(job, Job) else job
        raise BrokenPromise(f"promise {number}: {where}: {words}")


def state_events(job: Job) -> "list[JobEvent]":
    return list(job.events.filter(type="state").order_by("seq"))


def _check_states(job: Job, *, waits: bool) -> None:
    """Promises 1 and 7: it has ended, once, and that was the last word."""
    if waits:
        promise(7, job.state in ("draft", "queued", "paused"), job, "it was meant to wait")
        return
    promise(7, job.is_terminal, job, "it has not ended")
    ends = [event for event in state_events(job) if event.body["state"] in TERMINAL]
    promise(1, len(ends) == 1, job, f"{len(ends)} terminal states were said")
    promise(1, ends[0].body["state"] == job.state, job, f"its events say {ends[0].body['state']}")
    promise(1, ends[0].seq == job.last_seq, job, "something was said after its end")
    promise(1, not job.lease_owner and job.lease_until is None, job, "somebody still holds its lease")


def _check_events(job: Job) -> None:
    """Promises 2, 5 and 9: no gap, attempts only grow, and an attempt that was closed is heard of no more."""
    events = list(job.events.order_by("seq").values_list("seq", "attempt", "line", "type", "body"))
    promise(9, [seq for seq, *_ in events] == list(range(1, job.last_seq + 1)), job, "its events have a gap")
    attempts = [attempt for _, attempt, *_ in events]
    promise(2, all(first <= second for first, second in pairwise(attempts)), job, f"attempts go back: {attempts}")
    closed = 0
    for seq, attempt, line, kind, body in events:
        promise(5, line is None or attempt > closed, job, f"event {seq} is of attempt {attempt}, which was closed")
        if kind == "state" and body["state"] not in ("running", "pausing"):
            closed = attempt
    lines = Counter((attempt, line) for _, attempt, line, *_ in events if line is not None)
    promise(5, not lines or max(lines.values()) == 1, job, "a line was written twice")


def _check_attempts(job: Job) -> None:
    """Promises 2, 3 and 5: tries are numbered, follow each other, and at most one succeeds."""
    tries = list(job.attempts.order_by("number"))
    numbers = [attempt.number for attempt in tries]
    promise(2, numbers == list(range(1, job.attempt + 1)), job, f"its tries are {numbers}")
    won = [attempt.number for attempt in tries if attempt.outcome == Outcome.SUCCEEDED]
    promise(3, won == ([job.attempt] if job.state == "succeeded" else []), job, f"tries {won} succeeded")
    for attempt in tries:
        promise(5, attempt.finished_at is not None and attempt.outcome != "running", job, f"{attempt} is still open")
    for first, second in pairwise(tries):
        promise(5, _end(first) <= second.started_at, job, f"{second} began before the one before it was closed")
    claims = Counter(
        event.attempt for event in state_events(job) if event.body["state"] == "running" and "device" in event.body
    )
    promise(2, set(claims.values()) <= {1}, job, f"a try was claimed twice: {claims}")


def _end(attempt: JobAttempt) -> "timezone.datetime":
    return attempt.finished_at or timezone.now()


def _check_artifact(job: Job) -> None:
    """Promise 4: what succeeded left a result that verifies and that its last try made."""
    if job.state != "succeeded" or job.recipe not in COUNTING:
        return
    promise(4, job.artifact is not None, job, "it has no artifact")
    assert job.artifact is not None
    found = artifacts.verify(job.artifact)
    promise(4, not found, job, f"its artifact: {found}")
    made_by = artifacts.open_file(job.artifact, "attempt.txt").read().decode()
    promise(4, made_by == str(job.attempt), job, f"its artifact was made by attempt {made_by}")


def _check_metrics(job: Job) -> None:
    """Promises 5 and 8: a loss of 1/step at each step; readers see each once, from the first to the last."""
    ends = {attempt.number: _end(attempt) for attempt in job.attempts.all()}
    late = [
        (row.key, row.step, row.attempt)
        for row in Metric.objects.filter(job=job)
        if (row.at - ends[row.attempt]).total_seconds() > SLACK
    ]
    promise(5, not late, job, f"numbers that are later than the end of their try: {late[:5]}")
    if job.recipe not in COUNTING:
        return
    drawn = charts.series(job, ["loss"], px=5000)["loss"]
    steps = list(drawn.steps)
    if job.state == "succeeded":
        wanted = list(range(1, job.params["steps"] + 1))
        promise(8, steps == wanted, job, f"steps {_differences(steps, wanted)}")
    else:
        promise(8, steps == list(range(1, len(steps) + 1)), job, f"steps {_differences(steps, range(1, len(steps)))}")
    wrong = [step for step, value in zip(drawn.steps, drawn.values, strict=True) if abs(value - 1 / step) > 1e-9]
    promise(8, not wrong, job, f"wrong numbers at steps {wrong[:5]}")


def _differences(found: "list[int]", wanted: "list[int] | range") -> str:
    missing, twice = sorted(set(wanted) - set(found)), [step for step, n in Counter(found).items() if n > 1]
    return f"missing {missing[:10]}, repeated {twice[:10]}, {len(found)} of {len(wanted)}"


def _check_places() -> None:
    """Promise 6: free when nothing runs, and never more tries at once than a host has places."""
    held: QuerySet[DeviceSlot] = DeviceSlot.objects.exclude(job=None).filter(job__state__in=TERMINAL)
    promise(6, not held.exists(), "places", f"held by finished jobs: {list(held)}")
    idle = DeviceSlot.objects.exclude(job=None).exclude(job__state__in=("running", "pausing"))
    promise(6, not idle.exists(), "places", f"held by jobs that do not run: {list(idle)}")
    places = Counter(DeviceSlot.objects.values_list("host", "queue"))
    moments: dict[tuple[str, str], list[tuple[timezone.datetime, int]]] = {}
    for attempt in JobAttempt.objects.select_related("job"):
        of_queue = moments.setdefault((attempt.host, attempt.job.queue), [])
        of_queue += [(attempt.started_at, 1), (_end(attempt), -1)]
    for where, changes in moments.items():
        running = most = 0
        for _, change in sorted(changes):
            running += change
            most = max(most, running)
        promise(6, most <= places[where], f"places {where}", f"{most} tries at once in {places[where]} places")


def _check_processes(stack: Stack) -> None:
    """Promise 10: no engine is left, and nothing else but living workers and what belongs to them.

    What was killed a moment ago may take some seconds to be gone.
    """
    deadline = time.monotonic() + LAST_BREATH
    while left := _strangers(stack):
        promise(10, time.monotonic() < deadline, "processes", f"are left: {left}")
        time.sleep(0.2)


def _strangers(stack: Stack) -> list[str]:
    """Engines, and processes that belong to no living worker, by their command lines."""
    found = []
    living = [process.pid for process in stack.processes if process.poll() is None]
    allowed = set(living) | {child.pid for pid in living for child in children_of(pid)}
    for process in processes_below(stack.data):
        try:
            line = process.cmdline()
            engine = any(part.startswith(f"{stack.data / 'runs'}/") for part in [*line, process.cwd()])
            if engine or process.pid not in allowed:
                found.append(f"{process.pid}: {' '.join(line).strip()}")
        except psutil.Error:
            continue
    return found


__all__ = ["BrokenPromise", "check_promises", "promise"]
