"""Launch, start, pause, resume, cancel, adjust, retry: what people and apps do to jobs.

Workers do the rest (`project.jobs.dispatcher`).
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Now
from pydantic import BaseModel, ValidationError

from project.contracts.events import FailureClass
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES, Recipe, Remedy
from project.jobs import checkpoints, doorbell, ending, journal, outcomes
from project.jobs.models import TERMINAL, Checkpoint, Job, JobState, Queue
from project.kernel import access, audit
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid, NotFound, invalid
from project.kernel.models import Artifact, Endpoint, Workspace

PRIORITIES = range(-100, 101)
TIME_LIMITS = range(1, 366 * 86_400)  # seconds
MEMORY_LIMITS = range(64 * 2**20, 2**50)  # bytes; less than that no engine can even start in

Input = Artifact | Endpoint | Path | str


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
    time_limit: int | None = None,
    memory_limit: int | None = None,
    start_checkpoint: Checkpoint | None = None,
    verb: str = "job.create",
) -> Job:
    """Make a job and, unless `start` is false, put it into its queue.

    `inputs` are artifacts, endpoints or paths on this host, by the names the recipe asks for. `time_limit` is in
    seconds of work, `memory_limit` in bytes of the host's memory; None takes the installation's default. `subject` is
    the object it works for, shown with it. `start_checkpoint` is another job's, that it starts from. `verb` is what the
    caller lets `by` do: an app that starts work under a verb of its own names that. Raises Invalid with `errors` named
    by field ('recipe', 'learning_rate', 'lora.r' …), NotFound, Forbidden.
    """
    access.require(by, verb, workspace)
    require_priority(priority, by)
    plugin = find_recipe(recipe)
    job = Job(
        workspace=workspace,
        created_by=by.label[:200],
        creator_identity=by.identity[:64],
        creator_user_id=by.user_id,
        recipe=plugin.name,
        title=_title(title),
        params=validated(plugin, params),
        inputs={name: _input(value, name, workspace, by) for name, value in (inputs or {}).items()},
        queue=queue or (Queue.GPU if plugin.needs == "device" else Queue.CPU),
        priority=_priority(priority),
        time_limit=_time_limit(time_limit) if time_limit is not None else settings.JOB_TIME_LIMIT or None,
        memory_limit=_memory_limit(memory_limit) if memory_limit is not None else settings.JOB_MEMORY_LIMIT or None,
        subject_kind=(subject._meta.model_name or "") if subject else "",
        subject_id=str(subject.pk) if subject else "",
        start_checkpoint=start_checkpoint,
    )
    job.save(force_insert=True)
    audit.record("job.created", job, by=by, recipe=job.recipe)
    _record_calls(job, by=by)
    if start:
        _enqueue(job, by=by)
    return job


def _record_calls(job: Job, *, by: Actor) -> None:
    """Who lets a job call an endpoint is in the endpoint's history."""
    called = [value["endpoint"] for value in job.inputs.values() if "endpoint" in value]
    for endpoint in Endpoint.objects.filter(pk__in=called) if called else ():
        audit.record("endpoint.used", endpoint, by=by, job=str(job.pk), recipe=job.recipe)


def still_calling(endpoint: Endpoint) -> list[str]:
    """The titles of the jobs that call this endpoint and have not ended."""
    alive = Job.objects.filter(workspace=endpoint.workspace_id).exclude(state__in=TERMINAL).only("title", "inputs")
    return [job.title for job in alive if {"endpoint": str(endpoint.pk)} in job.inputs.values()]


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


def require_priority(priority: int, by: Actor, *, field: str = "priority") -> None:
    """Raise Invalid at `field` for a place before the others that this actor may not give."""
    if priority > 0 and not by.may("job.cancel_any"):
        raise invalid(field, "Only an operator may put a job before the others; use 0 or less.")


def _priority(priority: int) -> int:
    if priority not in PRIORITIES:
        raise invalid("priority", f"Use a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}.")
    return priority


def _time_limit(seconds: int) -> int:
    if seconds not in TIME_LIMITS:
        raise invalid("time_limit", f"Use a number of seconds from {TIME_LIMITS[0]} to {TIME_LIMITS[-1]}.")
    return seconds


def _memory_limit(size: int) -> int:
    if size not in MEMORY_LIMITS:
        raise invalid("memory_limit", f"Use a number of bytes from {MEMORY_LIMITS[0]} to {MEMORY_LIMITS[-1]}.")
    return size


def _input(value: Input, name: str, workspace: Workspace, by: Actor) -> dict[str, str]:
    if isinstance(value, Artifact):
        if value.workspace_id != workspace.pk:
            raise NotFound(f"No such artifact for the input '{name}'.")
        return {"artifact": str(value.pk)}
    if isinstance(value, Endpoint):  # its id only: the token is fetched when the engine starts
        access.require(by, "endpoint.use", value)
        return {"endpoint": str(value.pk)}
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
    job = _unended(job)
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
def pause(job: Job, by: Actor) -> Job:
    """Take a job out of its place without losing its work: a running one saves a checkpoint first, if it can.

    It waits until `resume`. Whoever may cancel it may pause it; asking twice is fine. Raises Conflict for a draft, for
    one that is being cancelled, and for one that has ended.
    """
    access.require(by, _cancel_verb(job, by), job)
    job = _unended(job)
    if job.state in (JobState.PAUSING, JobState.PAUSED):
        return job
    if not job.can_pause:
        raise Conflict(f"This job is {'stopping' if job.is_cancelling else job.state}; it can't be paused.")
    audit.record("job.paused", job, by=by)
    state = JobState.PAUSING if job.state == JobState.RUNNING else JobState.PAUSED
    return _move(job, state, by=by, pause_requested_at=Now(), pause_requested_by=by.label[:200])


@transaction.atomic
def resume(job: Job, by: Actor) -> Job:
    """Let a paused job go on from its last checkpoint: back into the queue, at the place it had by its age.

    One that is still pausing goes on as well. Raises Conflict when it is not paused.
    """
    access.require(by, _cancel_verb(job, by), job)
    job = _unended(job)
    if not job.can_resume:
        raise Conflict(f"This job is {'stopping' if job.is_cancelling else job.state}; only a paused one can go on.")
    audit.record("job.resumed", job, by=by)
    state = JobState.RUNNING if job.state == JobState.PAUSING else JobState.QUEUED
    return _move(job, state, by=by, resumed=True, pause_requested_at=None, pause_requested_by="")


def _move(job: Job, state: JobState, *, by: Actor, resumed: bool = False, **fields: Any) -> Job:
    Job.objects.filter(pk=job.pk).update(state=state, **fields)
    job.refresh_from_db()
    journal.append(job, "state", state=job.state, by=by.label, **({"resumed": True} if resumed else {}))
    doorbell.ring(job.pk, job.queue)
    return job


@transaction.atomic
def adjust(
    job: Job,
    by: Actor,
    *,
    priority: int | None = None,
    time_limit: int | None = None,
    memory_limit: int | None = None,
) -> Job:
    """Change when a job starts and what it may use; None leaves a value. Limits count for a running one at once.

    Raises Conflict when it has ended, Invalid with the field. Only operators raise a priority above 0.
    """
    access.require(by, _cancel_verb(job, by), job)
    job = _unended(job)
    changed: dict[str, Any] = {}
    if priority is not None:
        if _priority(priority) > job.priority:
            require_priority(priority, by)
        changed["priority"] = priority
    if time_limit is not None:
        changed["time_limit"] = _time_limit(time_limit)
    if memory_limit is not None:
        changed["memory_limit"] = _memory_limit(memory_limit)
    if changed:
        audit.record("job.adjusted", job, by=by, **changed)
        Job.objects.filter(pk=job.pk).update(**changed)
        job.refresh_from_db()
    return job


def remedies(job: Job) -> list[Remedy]:
    """What may help a job that failed, as its recipe says: ways to run it again that fit better."""
    if job.state != JobState.FAILED:
        return []
    try:
        recipe = RECIPES.get(job.recipe)
        known = getattr(recipe, "remedies", None)
        params = recipe.Params.model_validate(job.effective_params)
    except (UnknownPlugin, ValidationError):
        return []
    return known(params, FailureClass(job.failure_class), job.failure_field) if known else []


def _with_remedy(job: Job, key: str) -> dict[str, Any]:
    for remedy in remedies(job):
        if remedy.key == key:
            return remedy.params.model_dump(mode="json")
    names = ", ".join(remedy.key for remedy in remedies(job)) or "none"
    raise invalid("remedy", f"There is no such remedy for this job (there is: {names}).")


@transaction.atomic
def retry(job: Job, by: Actor, *, remedy: str = "", from_checkpoint: bool | int = False) -> Job:
    """A new job with the same recipe, parameters and inputs; `remedy` names a change of parameters (`remedies`).

    With `from_checkpoint` it goes on from the old one's furthest checkpoint (True), or from that of a step. Raises
    Conflict while the old one has not ended or its checkpoint can't be used, Invalid for an unknown remedy or step.
    """
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
        params=validated(plugin, _with_remedy(job, remedy) if remedy else job.params),
        inputs=job.inputs,
        queue=job.queue,
        priority=job.priority,
        time_limit=job.time_limit,
        memory_limit=job.memory_limit,
        retry_of=job,
        start_checkpoint=_start(job, from_checkpoint),
        subject_kind=job.subject_kind,
        subject_id=job.subject_id,
    )
    audit.record("job.created", new, by=by, recipe=new.recipe, retry_of=str(job.pk))
    _record_calls(new, by=by)
    outcomes.retried(job, new)
    return _enqueue(new, by=by)


def _start(job: Job, which: bool | int) -> Checkpoint | None:
    if which is False:
        return None
    try:
        return checkpoints.chosen(job, which)
    except NotFound as error:
        raise invalid("from_checkpoint", error.detail) from None


def _unended(job: Job) -> Job:
    job = _locked(job)
    if job.is_terminal:
        raise Conflict(f"This job has {_ENDED[JobState(job.state)]} already.")
    return job


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
