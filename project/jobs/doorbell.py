"""Ringing for workers. A ring carries a job's id and nothing else; a lost one costs some seconds, never a job."""

import logging
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


def ring(job_id: UUID, queue: str) -> None:
    """Wake a worker of `queue` once the present transaction commits."""
    transaction.on_commit(partial(ring_now, job_id, queue), robust=True)


def ring_now(job_id: UUID, queue: str) -> bool:
    """False when the broker can't be reached: workers look into the database by themselves, only later."""
    from project.jobs.tasks import run_job

    try:
        run_job.apply_async(args=[str(job_id)], queue=queue, retry=False, expires=4 * settings.JOB_SWEEP)
    except (OperationalError, OSError) as error:
        log.warning("the queue can't be reached (%s); job %s starts when a worker next looks", error, job_id)
        return False
    return True
