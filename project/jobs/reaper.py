"""Finding jobs whose worker is gone, and ending what it left behind. Any number of reapers may run at once."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models.functions import Now

from project.jobs import ending, journal
from project.jobs.ending import Exit
from project.jobs.engine import kill_run
from project.jobs.identity import is_dead
from project.jobs.models import ACTIVE, Job, JobAttempt, Worker
from project.jobs.ownership import Ownership

log = logging.getLogger(__name__)
FORGET_WORKERS = timedelta(days=1)


class ServerStart(models.Func):
    """When PostgreSQL was started."""

    function, arity = "pg_postmaster_start_time", 0
    output_field = models.DateTimeField()


def sweep() -> int:
    """Give up jobs whose lease has run out; returns how many.

    The first sweep that finds a lease expired only notes it, a later one acts. In between every living supervisor had
    time to renew, and some worker must have said that it lives: after a restart of the database nobody is given up
    just because nobody could write.
    """
    expired = Job.objects.filter(state__in=ACTIVE, lease_until__lt=Now())
    expired.filter(suspected_at=None).update(suspected_at=Now())
    if connection.vendor == "postgresql":  # nobody could renew meanwhile: a suspicion from before counts from now on
        expired.filter(suspected_at__lt=ServerStart()).update(suspected_at=Now())
    patience = timedelta(seconds=1.2 * settings.JOB_BEAT)  # a living supervisor renews at every beat
    due = expired.filter(suspected_at__lt=Now() - patience)
    given_up = 0
    for pk in due.values_list("pk", flat=True):
        with transaction.atomic():
            job = journal.locked(due.filter(pk=pk))  # asked again under the lock
            if job is None or not _others_live(job):
                continue
            attempt = job.attempts.get(number=job.attempt)
            log.warning("job %s: the worker of attempt %s on %s fell silent", pk, job.attempt, attempt.host)
            ending.lose(job, f"Its worker on {attempt.host} fell silent.", exit=Exit())
            given_up += 1
    Worker.objects.filter(heartbeat_at__lt=Now() - FORGET_WORKERS).delete()
    return given_up


def _others_live(job: Job) -> bool:
    """Has another worker written a heartbeat since the suspicion? Then the database can be reached."""
    mine = Job.objects.filter(pk=job.pk).values("suspected_at")
    return Worker.objects.filter(heartbeat_at__gt=mine[:1]).exclude(pk=job.lease_owner).exists()


def orphans(host: str) -> list[JobAttempt]:
    """Attempts on this host that are still the job's present one, and whose worker has certainly died."""
    attempts = JobAttempt.objects.filter(host=host, engine_gone=False).select_related("job")
    return [attempt for attempt in attempts if _is_current(attempt) and is_dead(attempt.owner)]


def kill_left_behind(host: str) -> None:
    """Kill engines on this host whose attempt was given up: their place is somebody else's by now."""
    for attempt in JobAttempt.objects.filter(host=host, engine_gone=False).select_related("job"):
        if not _is_current(attempt):
            _kill(attempt)


def recover_host(host: str) -> int:
    """Kill what dead workers left running on this host and queue their jobs again. Returns how many jobs.

    For a host on which no worker will go on soon; a worker takes living engines over instead (`claim.adopt`).
    """
    kill_left_behind(host)
    recovered = 0
    for attempt in orphans(host):
        if _kill(attempt):
            own = Ownership(attempt.job_id, attempt.number, attempt.owner)
            recovered += _requeue(own, f"Its worker on {host} died.")
    return recovered


def recover_strays(owner: str, *, supervised: Iterable[UUID]) -> int:
    """Queue again what living `owner` holds and nobody there works on: its supervisor failed, or a claim was committed
    and the answer lost. Only `owner` itself can know that. Returns how many jobs."""
    recovered = 0
    for job in Job.objects.filter(lease_owner=owner, state__in=ACTIVE).exclude(pk__in=supervised):
        attempt = job.attempts.get(number=job.attempt)
        if _kill(attempt):
            recovered += _requeue(Ownership(job.pk, job.attempt, owner), f"Its supervisor on {attempt.host} failed.")
    return recovered


def _is_current(attempt: JobAttempt) -> bool:
    job = attempt.job
    return job.is_active and (job.attempt, job.lease_owner) == (attempt.number, attempt.owner)


def _kill(attempt: JobAttempt) -> bool:
    gone = kill_run(attempt.run_folder(), attempt.pid, attempt.process_created)
    if gone:
        JobAttempt.objects.filter(pk=attempt.pk).update(engine_gone=True)
    else:
        log.error("job %s: attempt %s can't be killed on %s", attempt.job_id, attempt.number, attempt.host)
    return gone


def _requeue(own: Ownership, why: str) -> bool:
    with transaction.atomic():
        job = journal.locked(own.rows())
        if job is None:
            return False
        log.warning("job %s: attempt %s is lost: %s", job.pk, job.attempt, why)
        ending.lose(job, why, exit=Exit(gone=True))
    return True
