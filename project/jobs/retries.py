"""Which failures are followed by another try, and how often.

| class | another try |
|---|---|
| infrastructure | three in a row without a new checkpoint; the pause doubles |
| crash, host memory | one, unless the same crash comes twice without a new checkpoint; at most three in a row |
| device memory | as long as the recipe knows a smaller way to do the same (`smaller`) |
| host memory again, or over the job's own limit | the same |
| user error, storage full, time limit | none: somebody has to change something first |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db.models import Max
from pydantic import ValidationError

from project.contracts.events import FailureClass
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES
from project.jobs.models import Job, JobAttempt, Outcome

BUDGETS = {FailureClass.INFRASTRUCTURE: 3, FailureClass.CRASH: 3, FailureClass.HOST_MEMORY: 1}
LONGEST_PAUSE = 300.0  # seconds between two tries
_HARMLESS = (Outcome.DRAINED, Outcome.PAUSED)


@dataclass(frozen=True)
class Again:
    """Another try: after `pause` seconds, with `adjusted` parameters. `note` says more about what was changed."""

    pause: float
    adjusted: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Enough:
    """No other try. `why` is added to the reason of the failure; empty where it speaks for itself."""

    why: str = ""


def judge(job: Job, failure: FailureClass, message: str, *, final: bool = False) -> Again | Enough:
    """What follows the present try of `job`, which failed with `message` and is not closed yet.

    `final`: the same work would fail again in the same way.
    """
    if failure == FailureClass.DEVICE_MEMORY:
        return _smaller(job)
    again = Enough() if final else _the_same(job, failure, message)
    return _smaller(job, again) if failure == FailureClass.HOST_MEMORY and isinstance(again, Enough) else again


def _the_same(job: Job, failure: FailureClass, message: str) -> Again | Enough:
    budget = BUDGETS.get(failure, 0)
    if not budget:
        return Enough()
    earlier = _in_vain(job)
    repeated = bool(earlier) and (earlier[0].failure_class, earlier[0].message) == (failure, message)
    if repeated and failure != FailureClass.INFRASTRUCTURE:
        return Enough("It ended like this twice, with nothing saved in between; it is not tried again.")
    if len(earlier) >= budget:
        return Enough(f"That was try {job.attempt}; it is not tried again.")
    return Again(pause=min(settings.JOB_BEAT * 2 ** len(earlier), LONGEST_PAUSE))


def _in_vain(job: Job) -> list[JobAttempt]:
    """The failed tries before the present one, newest first, since the last that went further and saved that."""
    further = _went_further(job)
    found: list[JobAttempt] = []
    if job.attempt in further:
        return found
    for attempt in job.attempts.filter(number__lt=job.attempt).order_by("-number"):
        if attempt.outcome not in _HARMLESS:
            found.append(attempt)
        if attempt.number in further:
            break
    return found


def _went_further(job: Job) -> set[int]:
    """The tries that saved a step beyond every step that was saved before. One that saves the same again did not."""
    furthest, found = -1, set()
    saved = job.checkpoints.order_by().values_list("attempt").annotate(Max("step")).order_by("attempt")
    for attempt, step in saved:
        if step > furthest:
            furthest = step
            found.add(attempt)
    return found


def _smaller(job: Job, otherwise: Enough | None = None) -> Again | Enough:
    """Half the micro-batch with twice the accumulation, or whatever the recipe calls the same work in less memory.

    `otherwise` is said of a recipe that knows nothing of the kind.
    """
    try:
        recipe = RECIPES.get(job.recipe)
        smaller = getattr(recipe, "smaller", None)
        params = recipe.Params.model_validate(job.effective_params)
        fewer = smaller(params) if smaller else None
    except (UnknownPlugin, ValidationError):
        return otherwise or Enough()
    if fewer is None:
        return Enough("It can't be divided into smaller steps.") if smaller else otherwise or Enough()
    before, after = params.model_dump(mode="json"), fewer.model_dump(mode="json")
    changed = {name: value for name, value in after.items() if value != before[name]}
    if not changed:
        return otherwise or Enough()
    note = ", ".join(f"{name} {value} instead of {before[name]}" for name, value in sorted(changed.items()))
    return Again(pause=0.0, adjusted=changed, note=note)
