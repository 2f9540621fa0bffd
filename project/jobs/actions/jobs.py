"""Launch, start, cancel, retry: what people and apps do to jobs. Workers do the rest (`project.jobs.dispatcher`)."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.db import models, transaction
from django.db.models.functions import Now
from pydantic import BaseModel, ValidationError

from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES, Recipe
from project.jobs import doorbell, ending, journal, outcomes
from project.jobs.models import Job, JobState, Queue
from project.kernel import access, audit
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid, NotFound, invalid
from project.kernel.models import Artifact, Workspace

PRIORITIES = range(-100, 101)

Input = Artifact | Path | str


@transaction.atomic
def launch(
    recipe: str,
    params: BaseModel | Mapping[str, Any],
    *,
    workspace: Workspace,
    by: Actor,
    title: str,
    inputs: Mapping[str, Input] | None = None,
    subject: models.Model | None = None,
    priority: int = 0,
    start: bool = True,
    queue: str | None = None,
    verb: str = "job.create",
) -> Job:
    """Make a job and, unless `start` is false, put it into its queue.

    `inputs` are artifacts or paths on this host, by the names the recipe asks for. `subject` is the object it works
    for, shown with it. `verb` is what the caller lets `by` do: an app that starts work under a verb of its own names
    that. Raises Invalid with `errors` named by field ('recipe', 'learning_rate', 'lora.r' …), NotFound, Forbidden.
    """
    access.require(by, verb, workspace)
    plugin = find_recipe(recipe)
    job = Job(
        workspace=workspace,
        created_by=by.label[:200],
        creator_identity=by.identity[:64],
        creator_user_id=by.user_id,
        recipe=plugin.name,
        title=_title(title),
        params=validated(plugin, params),
        inputs={name: _input(value, name, workspace) for name, value in (inputs or {}).items()},
        queue=queue or (Queue.GPU if plugin.needs == "device" else Queue.CPU),
        priority=_priority(priority),
        subject_kind=(subject._meta.model_name or "") if subject else "",
        subject_id=str(subject.pk) if subject else "",
    )
    job.save(force_insert=True)
    audit.record("job.created", job, by=by, recipe=job.recipe)
    if start:
        _enqueue(job, by=by)
    return job


def find_recipe(name: str) -> Recipe:
    """Raises Invalid at 'recipe', with the nearest known name."""
    try:
        return RECIPES.get(name)
    except UnknownPlugin as error:
        raise invalid("recipe", str(error)) from None


def validated(recipe: Recipe, params: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as they are stored: complete, plain JSON. Raises Invalid with a message per field."""
    given = params.model_dump() if isinstance(params, BaseModel) else dict(params)
    try:
        stored = recipe.Params.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        raise Invalid(errors=field_errors(error)) from None
    if wrong := dict(_unstorable(stored)):
        raise Invalid(errors=wrong)
    return stored


def field_errors(error: ValidationError) -> dict[str, list[str]]:
    """pydantic's findings as {dotted field: [message, …]}."""
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"]) or "params"
        found.setdefault(name, []).append(problem["msg"])
    return found


def _unstorable(value: Any, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """What JSON in a database can't hold: numbers that are not finite, texts with a NUL."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unstorable(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unstorable(inner, f"{name}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield name, ["Use a finite number."]
    elif isinstance(value, str) and "\x00" in value:
        yield name, ["Text can't hold a NUL character."]


def _title(title: str) -> str:
    title = " ".join(title.replace("\x00", " ").split())
    if not title:
        raise invalid("title", "Say in a few words what the job is for.")
    return title[:200]


def _priority(priority: int) -> int:
    if priority not in PRIORITIES:
        raise invalid("priority", f"Use a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}.")
    return priority


def _input(value: Input, name: str, workspace: Workspace) -> dict[str, str]:
    if isinstance(value, Artifact):
        if value.workspace_id != workspace.pk:
            raise NotFound(f"No such artifact for the input '{name}'.")
        return {"artifact": str(value.pk)}
    return {"path": str(Path(value).resolve())}


@transaction.atomic
def start(job: Job, by: Actor) -> Job:
    """Put a draft into its queue. Raises Conflict when it is no draft any more."""
    access.require(by, "job.start", job)
    job = _locked(job)
    if job.state != JobState.DRAFT:
        raise Conflict(f"This job is {job.state}; only a draft can be started.")
    audit.record("job.started", job, by=by)
    return _enqueue(job, by=by)


def _enqueue(job: Job, *, by: Actor) -> Job:
    Job.objects.filter(pk=job.pk, state=JobState.DRAFT).update(state=JobState.QUEUED, queued_at=Now())
    job.refresh_from_db(fields=["state", "queued_at"])
    journal.append(job, "state", state=job.state, by=by.label)
    doorbell.ring(job.pk, job.queue)
    return job


@transaction.atomic
def cancel(job: Job, by: Actor) -> Job:
    """End a job: at once when nobody works on it, else its worker is asked to stop the engine and end it.

    People cancel their own jobs, operators everybody's. Asking twice is fine. Raises Conflict when it has ended.
    """
    access.require(by, _cancel_verb(job, by), job)
    job = _locked(job)
    if job.is_terminal:
        raise Conflict(f"This job has {_ENDED[JobState(job.state)]} already.")
    if job.cancel_requested_at is not None:
        return job
    audit.record("job.cancelled", job, by=by)
    Job.objects.filter(pk=job.pk).update(cancel_requested_at=Now(), cancel_requested_by=by.label[:200])
    if job.is_active:
        journal.append(job, "state", state=job.state, cancel_requested=True, by=by.label)
        doorbell.ring(job.pk, job.queue)
    else:
        ending.cancel_waiting(job, by=by.label)
    job.refresh_from_db()
    return job


_ENDED = {JobState.SUCCEEDED: "succeeded", JobState.FAILED: "failed", JobState.CANCELLED: "been cancelled"}


@transaction.atomic
def retry(job: Job, by: Actor) -> Job:
    """A new job with the same recipe, parameters and inputs. Raises Conflict while the old one has not ended."""
    access.require(by, "job.retry", job)
    if not job.is_terminal:
        raise Conflict(f"This job is {job.state}; cancel it first, or wait for its end.")
    plugin = find_recipe(job.recipe)
    new = Job.objects.create(
        workspace=job.workspace,
        created_by=by.label[:200],
        creator_identity=by.identity[:64],
        creator_user_id=by.user_id,
        recipe=job.recipe,
        title=job.title,
        params=validated(plugin, job.params),
        inputs=job.inputs,
        queue=job.queue,
        priority=job.priority,
        retry_of=job,
        subject_kind=job.subject_kind,
        subject_id=job.subject_id,
    )
    audit.record("job.created", new, by=by, recipe=new.recipe, retry_of=str(job.pk))
    outcomes.retried(job, new)
    return _enqueue(new, by=by)


def _locked(job: Job) -> Job:
    found = journal.locked(Job.objects.filter(pk=job.pk))
    if found is None:
        raise NotFound("No such job.")
    return found


def may_cancel(job: Job, by: Actor) -> bool:
    """For buttons: would `cancel` let this actor?"""
    return by.may(_cancel_verb(job, by))


def _cancel_verb(job: Job, by: Actor) -> str:
    return "job.cancel" if _is_own(job, by) else "job.cancel_any"


def _is_own(job: Job, by: Actor) -> bool:
    if by.user_id is not None and job.creator_user_id == by.user_id:
        return True
    return bool(job.creator_identity) and job.creator_identity == by.identity[:64]
