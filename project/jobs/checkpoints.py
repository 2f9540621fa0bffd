"""The checkpoints of a job: what its tries announced, and which of them another try can start from here."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from project.jobs.models import Job


@dataclass(frozen=True)
class KeptCheckpoint:
    """One announced checkpoint. `here` says whether its folder is on this host."""

    attempt: int
    step: int
    path: Path
    at: datetime
    metrics: dict[str, float]

    @property
    def here(self) -> bool:
        return self.path.is_dir()


def of(job: Job) -> list[KeptCheckpoint]:
    """Newest first."""
    said = job.events.filter(type="checkpoint").order_by("-seq")
    return [
        KeptCheckpoint(
            attempt=event.attempt,
            step=event.body["step"],
            path=job.run_folder(event.attempt) / event.body["path"],
            at=event.at,
            metrics=event.body.get("metrics", {}),
        )
        for event in said
    ]


def newest_here(job: Job) -> KeptCheckpoint | None:
    """The furthest one that this host has."""
    return max((kept for kept in of(job) if kept.here), key=lambda kept: (kept.step, kept.attempt), default=None)
