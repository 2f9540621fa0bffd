"""Who may write about a running job: the worker that holds its lease, for its attempt, and nobody else."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db import connection, models
from django.db.models.functions import Now
from django.db.models.sql import UpdateQuery

from project.jobs import journal
from project.jobs.models import ACTIVE, Job, JobAttempt

# What others write about a running job, for its supervisor to heed.
WISHES = ("state", "cancel_requested_at", "time_limit", "memory_limit", "worked")


class OwnershipLost(Exception):
    """Somebody else decides about this job now: stop at once and publish nothing."""


@dataclass(frozen=True)
class Ownership:
    """`attempt` is the fencing token: it only grows, so a writer that was given up can't come back."""

    job_id: UUID
    attempt: int
    owner: str

    def rows(self) -> "models.QuerySet[Job]":
        """The job, while it is ours. Every write about a running job goes through this."""
        return Job.objects.filter(pk=self.job_id, attempt=self.attempt, lease_owner=self.owner, state__in=ACTIVE)

    def lock(self, *fields: str) -> Job:
        """The job, locked; with `fields` only these are read. Call inside a transaction. Raises OwnershipLost."""
        job = journal.locked(self.rows().only(*fields) if fields else self.rows())
        if job is None:
            raise OwnershipLost
        return job

    def write(self, *told: str, **fields: Any) -> Job:
        """Change the job, renew its lease, and tell `told` of it, all in one statement, which locks the row.

        Call inside a transaction. Raises OwnershipLost.
        """
        query = cast(UpdateQuery, self.rows().query.chain(UpdateQuery))  # type: ignore[arg-type]
        query.add_update_values({"lease_until": lease_end(), "heartbeat_at": Now(), "suspected_at": None, **fields})
        compiler = query.get_compiler(connection=connection)
        columns = [
            field.get_col(Job._meta.db_table) for field in Job._meta.concrete_fields if field.name in ("id", *told)
        ]
        names = ", ".join(connection.ops.quote_name(column.target.column) for column in columns)
        sql, params = compiler.as_sql()
        with connection.cursor() as cursor:
            cursor.execute(f"{sql} RETURNING {names}", params)
            row = cursor.fetchone()
        if row is None:
            raise OwnershipLost
        (values,) = compiler.apply_converters([row], compiler.get_converters(columns))
        return Job.from_db(connection.alias, [column.target.attname for column in columns], values)

    def attempt_rows(self) -> "models.QuerySet[JobAttempt]":
        return JobAttempt.objects.filter(job_id=self.job_id, number=self.attempt)

    def renew(self) -> None:
        """Say that we still work on it, by the database's clock. Raises OwnershipLost."""
        if not self.rows().update(lease_until=lease_end(), heartbeat_at=Now(), suspected_at=None):
            raise OwnershipLost


def lease_end() -> models.expressions.Combinable:
    """When a lease that is taken now runs out, as an expression over the database's clock."""
    return Now() + timedelta(seconds=settings.JOB_LEASE)
