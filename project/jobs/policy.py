"""Which checkpoints stay: the newest of a job and its best one. Writes rows; `project.jobs.keeping` removes files.

The engine follows the same rule in the folder of its attempt (`project.modeling.checkpoints.prune`).
"""

from collections.abc import Iterable
from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from project.contracts.events import Checkpoint as CheckpointSaid
from project.jobs.models import TERMINAL, Checkpoint, Job
from project.jobs.ownership import Ownership
from project.modeling import checkpoints as files


def row_of(own: Ownership, said: CheckpointSaid, *, at: datetime) -> Checkpoint:
    """The row of a checkpoint that an engine on this host announced."""
    row = Checkpoint(
        job_id=own.job_id,
        attempt=own.attempt,
        step=said.step,
        at=at,
        host=settings.HOST_NAME,
        path=said.path,
        metrics=said.metrics,
    )
    if manifest := files.read(row.folder):  # None: its engine has written so many since that it is gone already
        row.size, row.digest = manifest.size, files.digest_of_manifest(row.folder)
    return row


def write(job: Job, rows: Iterable[Checkpoint]) -> None:
    """Write rows, and let go of what is not worth keeping any more. The caller holds the job's row."""
    rows = list(rows)
    if not rows:
        return
    Checkpoint.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["job", "attempt", "step"],
        update_fields=["at", "host", "path", "metrics", "size", "digest", "damage", "deleted_at"],
    )
    let_go(Checkpoint.objects.filter(pk__in=_superseded(job)))


def let_go(rows: "models.QuerySet[Checkpoint]") -> int:
    """Mark those of `rows` that no waiting or running job is to start from; returns how many."""
    needed = Job.objects.exclude(state__in=TERMINAL).exclude(start_checkpoint=None).values("start_checkpoint")
    return rows.filter(deleted_at=None).exclude(pk__in=needed).update(deleted_at=Now())


def _superseded(job: Job) -> list[int]:
    """A later attempt's count as newer: the files of an earlier one may lie on a host that nobody reaches."""
    last = job.effective_params.get("keep_checkpoints")
    if not isinstance(last, int) or last < 1:
        return []
    known = job.checkpoints.filter(deleted_at=None, damage="").order_by("-attempt", "-step")
    kept = files.worth_keeping([(row.pk, row.metrics.get("eval_loss")) for row in known], last=last)
    return [row.pk for row in known if row.pk not in kept]
