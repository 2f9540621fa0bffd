"""Taking the next job of a queue: one transaction makes it running, counts the try and takes the place."""

from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from project.jobs import journal, slots
from project.jobs.models import DeviceSlot, Job, JobAttempt, JobState, Outcome
from project.jobs.ownership import Ownership, lease_end


@dataclass(frozen=True)
class Claim:
    """A job that is ours to run, for one attempt."""

    own: Ownership
    device: str
    adopted: bool = False  # its engine runs already, or has ended unseen: its worker died

    @property
    def job_id(self) -> UUID:
        return self.own.job_id


def claim(queue: str, *, host: str, owner: str, job_id: UUID | None = None) -> Claim | None:
    """Take the next job of `queue` (or `job_id`, if it is next to nobody else) for a free place of this host.

    None when there is no place or nothing to do. Two claimers never get the same job or place: rows are locked and
    skipped by others on PostgreSQL, and on SQLite the transaction has the only right to write from its beginning.
    """
    with transaction.atomic():
        slot = slots.free_slot(host, queue)
        if slot is None or _still_used(slot):
            return None
        job = _next(queue, job_id)
        if job is None:
            return None
        Job.objects.filter(pk=job.pk).update(
            state=JobState.RUNNING,
            attempt=F("attempt") + 1,
            lease_owner=owner,
            lease_until=lease_end(),
            heartbeat_at=Now(),
            suspected_at=None,
            started_at=Coalesce("started_at", Now()),
            run_after=None,
            step=0,
            total=0,
            phase="",
            epoch=None,
            rate=None,
        )
        job.refresh_from_db()
        slots.take(slot, job)
        JobAttempt.objects.create(
            job=job, number=job.attempt, host=host, owner=owner, device=slot.device, started_at=Now()
        )
        journal.append(job, "state", state=job.state, host=host, device=slot.device)
        return Claim(Ownership(job.pk, job.attempt, owner), slot.device)


def _still_used(slot: DeviceSlot) -> bool:
    """Is an engine left on this GPU whose attempt was given up? It is killed first, by this host's next look around."""
    left = JobAttempt.objects.filter(host=slot.host, device=slot.device, engine_gone=False)
    return slot.device != "cpu" and left.exclude(outcome=Outcome.RUNNING).exists()


def _next(queue: str, job_id: UUID | None) -> Job | None:
    due = Q(run_after=None) | Q(run_after__lte=Now())
    waiting = Job.objects.filter(due, state=JobState.QUEUED, queue=queue, cancel_requested_at=None)
    if job_id is not None:
        waiting = waiting.filter(pk=job_id)
    skip = connection.features.has_select_for_update_skip_locked
    return waiting.select_for_update(skip_locked=skip, of=("self",)).order_by("-priority", "queued_at", "pk").first()


def adopt(attempt: JobAttempt, *, owner: str) -> Claim | None:
    """Go on with an attempt on this host whose worker has died, under the same number. None if somebody else does.

    The dead owner can't write any more, so a change of the owner is all the fencing that is needed.
    """
    own = Ownership(attempt.job_id, attempt.number, owner)
    with transaction.atomic():
        job = journal.locked(Ownership(attempt.job_id, attempt.number, attempt.owner).rows())
        if job is None:
            return None
        Job.objects.filter(pk=job.pk).update(
            lease_owner=owner, lease_until=lease_end(), heartbeat_at=Now(), suspected_at=None
        )
        JobAttempt.objects.filter(pk=attempt.pk).update(owner=owner)
        journal.append(job, "state", state=job.state, adopted=True, host=attempt.host)
    return Claim(own, attempt.device, adopted=True)
