"""The checkpoints of a job: which there are, and the one that a try starts from."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from django.db import models, transaction

from project.jobs import journal
from project.jobs.models import Checkpoint, Job
from project.jobs.ownership import Ownership
from project.kernel import artifacts
from project.kernel.errors import Conflict, NotFound, Unavailable
from project.modeling import checkpoints as files

log = logging.getLogger(__name__)
T = TypeVar("T")
Slowly = Callable[[Callable[[], T]], T]


@dataclass(frozen=True)
class Found:
    """`path` of a checkpoint of which every byte is right, `used` its row, and which others had to be left out, why."""

    path: Path | None = None
    used: Checkpoint | None = None
    damaged: dict[Checkpoint, str] = field(default_factory=dict)


def of(job: Job) -> "models.QuerySet[Checkpoint]":
    """All there ever were, the furthest first."""
    return job.checkpoints.order_by("-step", "-attempt")


def usable(job: Job) -> list[Checkpoint]:
    """What this host can start from as far as one knows without reading it, the furthest first."""
    return [row for row in of(job).filter(deleted_at=None).select_related("artifact") if row.is_usable]


def chosen(job: Job, which: bool | int) -> Checkpoint:
    """The checkpoint of step `which`, or the furthest if it is True. Raises Conflict, in words, if it can't be used."""
    if which is True:
        found = usable(job)
        if not found:
            raise Conflict("This job has no checkpoint that can be used.")
        return found[0]
    rows = [row for row in of(job).select_related("artifact") if row.step == which]
    row = next((row for row in rows if row.is_usable), rows[0] if rows else None)
    if row is None:
        raise NotFound(f"This job has no checkpoint at step {which}.")
    if not row.is_usable:
        raise Conflict(f"The {row} can't be used: {_WHY_NOT[row.state].format(row=row)}.")
    return row


_WHY_NOT = {
    "damaged": "{row.damage}",
    "gone": "its files are gone",
    "elsewhere": "its files are only on {row.host}, and there is no shared store",
}


def to_resume(job: Job, *, own: Ownership, into: Path, meanwhile: "Slowly[Found]") -> Path | None:
    """The furthest checkpoint that verifies, on this host or brought to it below `into`; None to begin anew.

    `meanwhile` does slow work while the lease goes on. Damaged ones are marked and named in the job's log. Raises
    Conflict if the job was to start from a certain checkpoint and can't, OSError if the store does not answer.
    """
    rows = usable(job)
    wanted = None if rows else Checkpoint.objects.select_related("artifact").filter(starts=job).first()
    if wanted is not None:
        rows = [wanted] if wanted.is_usable else []
    found = meanwhile(lambda: first_whole(rows, into)) if rows else Found()
    if found.damaged:
        with transaction.atomic():
            _note_damage(own.lock(), found)
    if wanted is not None and found.path is None:
        why = next(iter(found.damaged.values()), "its files are not on this host and not in a shared store")
        raise Conflict(f"The {wanted} that it was to start from can't be used: {why}.")
    return found.path


def first_whole(rows: list[Checkpoint], into: Path) -> Found:
    """Read them one after the other until one is right in every byte. Needs no database. Raises OSError."""
    damaged: dict[Checkpoint, str] = {}
    for row in rows:
        here = problems_of(row, row.folder) if row.is_here else []
        if row.is_here and not here:
            return Found(row.folder, row, damaged)
        fetched, there = _fetch(row, into) if row.artifact else (None, [])
        if fetched:
            return Found(fetched, row, damaged)
        damaged[row] = "; ".join([*here, *there]) or "its files are gone"
    return Found(damaged=damaged)


def problems_of(row: Checkpoint, folder: Path) -> list[str]:
    """What is wrong with the files of a checkpoint, in words; empty if every byte is as it was announced."""
    found = files.problems(folder)
    if not found and row.digest and files.digest_of_manifest(folder) != row.digest:
        found = [f"{folder.name} is not the one that was announced"]
    return found


def _fetch(row: Checkpoint, into: Path) -> tuple[Path | None, list[str]]:
    """A verified copy from the store, or what is wrong with the stored one."""
    assert row.artifact is not None  # noqa: S101
    target = into / "restored" / Path(row.path).name
    try:
        artifacts.download(row.artifact, target)
    except (FileNotFoundError, Unavailable) as error:
        return None, [f"its stored copy is damaged: {error}"]
    except Exception as error:  # a remote store raises its client's own errors
        raise OSError(f"the {row} could not be fetched from the store: {type(error).__name__}: {error}") from error
    found = problems_of(row, target)
    return (None, found) if found else (target, [])


def _note_damage(job: Job, found: Found) -> None:
    instead = f"It goes on from the {found.used}." if found.used else "There is none before it: it begins anew."
    for row, why in found.damaged.items():
        log.warning("job %s: the %s of attempt %s can't be used: %s", job.pk, row, row.attempt, why)
        Checkpoint.objects.filter(pk=row.pk).update(damage=why)
        journal.append(job, "log", level="warning", message=f"The {row} can't be used: {why}. {instead}")
