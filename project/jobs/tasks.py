"""Celery's part: doorbells. An id in, a worker awake; everything else is decided in the database."""

from celery import current_app, shared_task
from django.conf import settings

from project.jobs import doorbell, keeping, reaper, worker
from project.jobs.models import Job, JobState, Queue

CLEAR_EVERY = 3600.0  # seconds
RINGS = 20  # per queue and sweep: each awake worker fills all its slots, so a few are enough


@shared_task(name="jobs.run_job", ignore_result=True)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Somebody queued `job_id`: look into the queue. Being called five times, or late, does no harm."""
    worker.wake()


@shared_task(name="jobs.ring_again", ignore_result=True)  # type: ignore[untyped-decorator]
def ring_again() -> int:
    """Ring for rows that are still queued: their first ring may be lost."""
    rung = 0
    for queue in Queue.values:
        waiting = Job.objects.filter(state=JobState.QUEUED, queue=queue).order_by("-priority", "queued_at")
        for pk in waiting.values_list("pk", flat=True)[:RINGS]:
            rung += doorbell.ring_now(pk, queue)
    return rung


@shared_task(name="jobs.reap", ignore_result=True)  # type: ignore[untyped-decorator]
def reap() -> None:
    """Queue jobs again whose worker has died."""
    reaper.sweep()


@shared_task(name="jobs.clear_old", ignore_result=True)  # type: ignore[untyped-decorator]
def clear_old() -> None:
    """Remove what jobs left behind that ended long ago. Run folders are removed on the host where this runs."""
    keeping.clear_old()


def schedule() -> None:
    """Put the sweeps on beat's timetable."""
    current_app.conf.beat_schedule = {
        **(current_app.conf.beat_schedule or {}),
        "jobs: ring again": {"task": ring_again.name, "schedule": settings.JOB_SWEEP},
        "jobs: reap": {"task": reap.name, "schedule": settings.JOB_SWEEP},
        "jobs: clear old": {"task": clear_old.name, "schedule": CLEAR_EVERY},
    }
