"""What an app does when a job of its recipe ends. Registered in `AppConfig.ready()`."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from project.jobs.models import Job
from project.kernel.models import Artifact

log = logging.getLogger(__name__)

Success = Callable[[Job, dict[str, Any], Artifact | None], dict[str, Any] | None]


@dataclass(frozen=True)
class Handlers:
    on_success: Success | None = None
    on_failure: Callable[[Job], None] | None = None
    on_retry: Callable[[Job, Job], None] | None = None


_handlers: dict[str, Handlers] = {}


def register(
    recipe: str,
    *,
    on_success: Success | None = None,
    on_failure: Callable[[Job], None] | None = None,
    on_retry: Callable[[Job, Job], None] | None = None,
) -> None:
    """Say what follows the end of a job of `recipe`.

    - `on_success(job, result, artifact)` runs in the transaction that writes *succeeded*: make the version, the
      scores. What it returns is added to the job's `result`. If it raises a Problem the job fails with its words.
    - `on_failure(job)` runs in the transaction that writes *failed* or *cancelled*; the job has that state already.
    - `on_retry(old, new)` runs in the transaction that makes the new job of a person's retry: make the row that
      belongs to `new` (`subject_id` may be changed and is saved).
    """
    _handlers[recipe] = Handlers(on_success, on_failure, on_retry)


def succeeded(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """The job's result, with what the app adds to it. Raises what the handler raises."""
    handler = _handlers.get(job.recipe, Handlers()).on_success
    result = dict(result)
    added = handler(job, result, artifact) if handler else None
    return {**result, **(added or {})}


def failed(job: Job) -> None:
    """Never raises: a job's end is written whatever an app thinks of it."""
    handler = _handlers.get(job.recipe, Handlers()).on_failure
    if handler:
        try:
            with transaction.atomic():
                handler(job)
        except Exception:  # an app's mistake: the job has ended all the same
            log.exception("the handler of a failed '%s' job failed", job.recipe)


def retried(old: Job, new: Job) -> None:
    handler = _handlers.get(old.recipe, Handlers()).on_retry
    if handler:
        handler(old, new)
        new.save(update_fields=["subject_kind", "subject_id", "inputs"])
