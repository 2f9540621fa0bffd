"""Watching a job from a shell: a progress bar with an ETA, and a worker of its own where none is running."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO

from django.conf import settings
from django.db import connections
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from project.jobs import slots
from project.jobs.actions import jobs
from project.jobs.claim import claim
from project.jobs.identity import Identity
from project.jobs.models import Job, Worker
from project.jobs.supervisor import Supervisor
from project.kernel.access import Actor

POLL = 0.25  # seconds
SAY = 15.0  # seconds between lines where there is no terminal


def has_worker(queue: str) -> bool:
    """Has any worker that takes jobs of `queue` given a sign of life lately?"""
    lately = timezone.now() - timedelta(seconds=3 * settings.JOB_BEAT + 5)
    alive = Worker.objects.filter(heartbeat_at__gte=lately, draining=False)
    return any(queue in worker.queues for worker in alive)


def follow(job: Job, *, by: Actor, to: IO[str], quiet: bool = False) -> Job:
    """Wait until `job` has ended, showing how far it is on `to`; returns it as it is then.

    Without a worker it runs here, and Ctrl-C cancels it. With one, Ctrl-C only stops watching.
    """
    job.refresh_from_db()
    if job.is_terminal:
        return job
    console = Console(file=to, quiet=quiet)
    here = not has_worker(job.queue)
    with _running_here(job) if here else _watching() as ended:
        try:
            _show(job, console, ended)
        except KeyboardInterrupt:
            if here:
                console.print("Cancelling; what is done so far is being saved. Ctrl-C again leaves it to a worker.")
                jobs.cancel(job, by)
                _show(job, console, ended)
            raise
    job.refresh_from_db()
    return job


@contextmanager
def _watching() -> Iterator[threading.Event]:
    yield threading.Event()


@contextmanager
def _running_here(job: Job) -> Iterator[threading.Event]:
    """Supervise `job` in a thread of this process, until it ends or until the block is left early."""
    ended, draining = threading.Event(), threading.Event()

    def work() -> None:
        try:
            while not draining.is_set():
                slots.ensure(settings.HOST_NAME, job.queue)
                taken = claim(job.queue, host=settings.HOST_NAME, owner=str(Identity.mine()), job_id=job.pk)
                if taken is not None:
                    Supervisor(taken, draining=draining).run()
                if Job.objects.get(pk=job.pk).is_terminal:
                    return
                time.sleep(POLL)  # the places of this host are taken, or the try was lost and another one follows
        finally:
            ended.set()
            connections.close_all()

    thread = threading.Thread(target=work, name=f"job {job.pk}")
    thread.start()
    try:
        yield ended
    finally:
        draining.set()
        thread.join()


def _show(job: Job, console: Console, ended: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    said, words = 0.0, ""
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(job.title, total=1, unit="", eta="")
        while True:
            over = ended.is_set()
            job.refresh_from_db()
            if job.is_terminal or over:
                return
            eta = f"{_span(job.eta_seconds)} left" if job.eta_seconds is not None else ""
            now = f"{job.phase or job.state}"
            bar.update(task, description=now, completed=job.step, total=job.total or 1, unit=job.unit, eta=eta)
            if not console.is_terminal and (time.monotonic() - said > SAY or now != words):
                done = f" {job.step}/{job.total} {job.unit}" if job.total else ""
                console.print(f"{now}{done}{', ' + eta if eta else ''}", highlight=False, markup=False)
                said, words = time.monotonic(), now
            ended.wait(POLL)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
