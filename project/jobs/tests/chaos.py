"""Faults at random moments, from a seed: what tests and the soak do to workers, engines, messages and the database."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import psutil
from django.db import InterfaceError, OperationalError, connections

from project.jobs.actions import jobs
from project.jobs.models import Job, JobAttempt, JobEvent
from project.jobs.models.job import as_time
from project.jobs.tests.servers import Postgres, Redis
from project.jobs.tests.stack import LEASE, Stack, until
from project.kernel.access import Actor
from project.kernel.errors import Conflict

T = TypeVar("T")
DOWN = 1.6  # leases that a stopped worker stays silent


def seeds(default: int) -> list[int]:
    """What FAULT_SEED names, separated by commas, or one that is always the same."""
    return [int(seed) for seed in os.environ.get("FAULT_SEED", str(default)).split(",")]


def actor(job: Job) -> Actor:
    return Actor.system("test", job.workspace)


def patiently(call: Callable[[], T], seconds: float = 60) -> T:
    """Ask a database that may be away for a while."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (OperationalError, InterfaceError):
            connections["default"].close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@dataclass(frozen=True)
class Injected:
    """What was done, when (Unix time), and to which try of which job."""

    what: str
    at: float
    job: UUID | None = None
    attempt: int = 0


@dataclass
class Chaos:
    """Keeps `size` workers running over `stack` and does things to them. `more` is their environment."""

    stack: Stack
    seed: int
    size: int = 2
    more: dict[str, str] = field(default_factory=dict)
    redis: Redis | None = None
    injected: list[Injected] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f"FAULT_SEED={self.seed}")
        self.random = random.Random(self.seed)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._thaws: list[threading.Timer] = []
        self.keep_workers()

    # --- work

    def submit(self, count: int = 1, recipe: str = "count", **params: Any) -> list[Job]:
        """Jobs of one or two seconds that save every ten steps. `recipe` '' takes any that counts."""
        launched = []
        for _ in range(count):
            steps = self.random.randrange(20, 61)
            chosen = recipe or self.random.choice(["count", "tally"])
            given = {"steps": steps, "pause": 0.03, "checkpoint_every": 10, **params}
            launched.append(patiently(lambda chosen=chosen, given=given: self.stack.launch(chosen, **given)))  # type: ignore[misc]
        return launched

    def keep_workers(self) -> None:
        """Start as many as are missing, as a process manager does."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self.size:
            self.workers.append(self.stack.worker(**self.more))

    def wait(self, least: float = 0.1, most: float = 1.0) -> None:
        """Until the next random moment."""
        time.sleep(self.random.uniform(least, most))

    # --- what may happen

    def kill_worker(self) -> None:
        worker = self.random.choice(self.workers)
        self._note("kill worker", self._attempt_of(worker))
        worker.kill()
        worker.wait()

    def kill_engine(self) -> None:
        attempt = self._running()
        if attempt is not None:
            self._note("kill engine", attempt)
            _kill_group(attempt)

    def kill_both(self) -> None:
        """As when their host dies."""
        attempt = self._running()
        worker = next((each for each in self.workers if attempt and f" {each.pid} " in attempt.owner), None)
        if attempt is not None and worker is not None:
            self._note("kill both", attempt)
            worker.kill()
            worker.wait()
            _kill_group(attempt)

    def freeze_worker(self) -> None:
        """Silent for longer than its lease; then it goes on as if nothing had happened."""
        worker = self.random.choice(self.workers)
        self._note("freeze worker", self._attempt_of(worker))
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGSTOP)
        thaw = threading.Timer(DOWN * LEASE, _thaw, [worker])
        thaw.start()
        self._thaws.append(thaw)

    def drain_worker(self) -> None:
        worker = self.random.choice(self.workers)
        self._note("drain worker", self._attempt_of(worker))
        worker.terminate()

    def cancel(self) -> None:
        self._wish("cancel", jobs.cancel, Job.objects.exclude(state__in=("succeeded", "failed", "cancelled")))

    def pause(self) -> None:
        self._wish("pause", jobs.pause, Job.objects.filter(state__in=("queued", "running")))

    def resume(self) -> None:
        self._wish("resume", jobs.resume, Job.objects.filter(state__in=("paused", "pausing")))

    def lose_messages(self) -> None:
        self._note("lose messages")
        if self.redis is not None:
            self.redis.flush()
        elif self.stack.redis_url == "":
            for path in (self.stack.data / "broker" / "queue").iterdir():
                path.unlink(missing_ok=True)

    def lose_folder(self) -> None:
        """The embedded broker's whole folder."""
        self._note("lose folder")
        shutil.rmtree(self.stack.data / "broker" / "queue", ignore_errors=True)

    def kill_broker(self) -> None:
        if self.redis is not None:
            self._note("kill broker")
            self.redis.kill()
            self.wait(0.2, 3.0)
            self.redis.start()

    def repeat_messages(self) -> None:
        """Each five times, in any order, with some for jobs that ended long ago."""
        known = patiently(lambda: list(Job.objects.all()))
        rung = self.random.sample(known, min(len(known), 10)) * 5
        self.random.shuffle(rung)
        self._note("repeat messages")
        for job in rung:
            with suppress(Exception):  # the broker may be away
                self.stack.ring(job)

    def restart_database(self, least: float = 0.2, most: float = 2.0 * LEASE) -> None:
        server = Postgres(self.stack.database_url)
        self._note("restart database")
        server.crash()
        self.wait(least, most)
        server.start()

    # --- the end

    def finish(self, seconds: float = 90) -> None:
        """Let everything go on, and wait for its end."""
        for thaw in self._thaws:
            thaw.join()
        begun = time.monotonic()
        while left := patiently(self._unfinished):
            if time.monotonic() - begun > seconds:
                raise AssertionError(
                    f"seed {self.seed}: not ended within {seconds} s: {[_described(job) for job in left]}"
                )
            self.keep_workers()
            for job in left:
                if job.can_resume:
                    with suppress(Conflict):
                        patiently(lambda job=job: jobs.resume(job, by=actor(job)))  # type: ignore[misc]
            time.sleep(0.2)

    def recoveries(self) -> list[float]:
        """Seconds from each loss of a running try until somebody went on with its job, or it had ended."""
        found = []
        for each in self.injected:
            if each.job is None or not each.what.startswith(("kill", "freeze", "drain")):
                continue
            after = JobEvent.objects.filter(job=each.job, type="state", at__gt=as_time(each.at))
            event = after.exclude(body__state="queued").order_by("seq").first()
            if event is not None:
                found.append(event.at.timestamp() - each.at)
        return found

    def counts(self) -> dict[str, int]:
        return dict(Counter(each.what for each in self.injected))

    # --- inside

    def _unfinished(self) -> list[Job]:
        return list(Job.objects.exclude(state__in=("draft", "succeeded", "failed", "cancelled")))

    def _note(self, what: str, attempt: JobAttempt | None = None) -> None:
        numbers = (attempt.job_id, attempt.number) if attempt else (None, 0)
        self.injected.append(Injected(what, time.time(), *numbers))

    def _running(self) -> JobAttempt | None:
        running = JobAttempt.objects.filter(outcome="running", engine_gone=False).order_by("pk")
        found = patiently(lambda: list(running))
        return self.random.choice(found) if found else None

    def _attempt_of(self, worker: "subprocess.Popen[bytes]") -> JobAttempt | None:
        running = JobAttempt.objects.filter(outcome="running", owner__contains=f" {worker.pid} ").order_by("pk")
        return patiently(running.first)

    def _wish(self, what: str, act: Callable[..., object], rows: Any) -> None:
        found = patiently(lambda: list(rows.order_by("pk")))
        if found:
            job = self.random.choice(found)
            self._note(what)
            with suppress(Conflict):  # it ended, or another wish was faster
                patiently(lambda: act(job, by=actor(job)))


def _kill_group(attempt: JobAttempt) -> None:
    if attempt.pid:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(attempt.pid, signal.SIGKILL)


def _thaw(worker: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGCONT)


def _described(job: Job) -> str:
    attempt = job.attempts.order_by("-number").first()
    return f"{job} {job.state} attempt {job.attempt} step {job.step}/{job.total} {attempt and attempt.owner}"


def is_over(pid: int | None) -> bool:
    """Is this process gone, or only waited for?"""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


__all__ = ["Chaos", "actor", "is_over", "patiently", "seeds", "until"]
