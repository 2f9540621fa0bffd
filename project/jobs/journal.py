"""Writing numbered events. Whoever calls holds the job's row locked, so that numbers have no gap."""

from typing import Any

from django.db import models
from django.db.models.functions import Now

from project.jobs.models import Job, JobEvent
from project.kernel import live


def locked(rows: "models.QuerySet[Job]") -> Job | None:
    """The one job of `rows`, locked until the transaction ends (on SQLite the whole database is)."""
    return rows.select_for_update(of=("self",)).first()


def append(job: Job, kind: str, **body: Any) -> JobEvent:
    """Write one event of the platform itself, and tell open pages when the transaction commits."""
    job.last_seq += 1
    event = JobEvent.objects.create(job=job, seq=job.last_seq, attempt=job.attempt, type=kind, at=Now(), body=body)
    Job.objects.filter(pk=job.pk).update(last_seq=job.last_seq)
    hint(job)
    return event


def hint(job: Job) -> None:
    """Something up to `last_seq` is new: pages fetch the rest."""
    live.publish(f"job.{job.pk}", seq=job.last_seq)
