"""Checkpoints of a fine-tune: make a version of the weights in one."""

from typing import Any

from django.db import transaction

from project.jobs import checkpoints
from project.jobs.actions import jobs
from project.jobs.models import Job, JobState
from project.kernel import access, audit, edges
from project.kernel.access import Actor
from project.kernel.errors import Conflict
from project.kernel.models import Artifact
from project.modeling.checkpoints import HOLD
from training.actions import finetunes
from training.engine.recipes import register_checkpoint as recipe
from training.models import FineTune


@transaction.atomic
def register_checkpoint(job: Job, step: int, *, by: Actor, model: str = "") -> Job:
    """Start the job that makes a version out of a checkpoint of a fine-tune; returns it. Asking twice is fine.

    The version belongs to the fine-tune's own model, or to `model`. Raises Conflict for a job that trains nothing and
    for a checkpoint that can't be used, NotFound for a step without one, Forbidden. What is damaged and not yet known
    to be is found by the job, which then fails and says so.
    """
    access.require(by, "version.register", job)
    fine_tune = FineTune.objects.select_related("base_version__artifact").filter(job=job).first()
    if fine_tune is None:
        raise Conflict(f"Only a checkpoint of a fine-tune can become a version; this job is: {job.recipe_label}.")
    kept = checkpoints.chosen(job, step)
    asked = Job.objects.filter(recipe=recipe.name, start_checkpoint=kept, params__model=model)
    known = asked.exclude(state__in=(JobState.FAILED, JobState.CANCELLED)).first()
    if known is not None:
        return known
    if kept.is_here and not job.is_terminal:  # its engine must not prune it meanwhile
        (kept.folder / HOLD).touch()
    made = jobs.launch(
        recipe.name,
        recipe.Params(step=kept.step, model=model),
        workspace=job.workspace,
        by=by,
        title=f"{fine_tune.name}, step {kept.step}"[:200],
        inputs={"base": fine_tune.base_version.artifact},
        start_checkpoint=kept,
        verb="version.register",
    )
    audit.record("checkpoint.registered", job, by=by, step=kept.step, attempt=kept.attempt, job=str(made.pk))
    return made


def finished(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """Outcome handler: the weights become a version, in the transaction that lets the job succeed."""
    kept = job.start_checkpoint
    if artifact is None or kept is None:
        raise Conflict("The checkpoint is gone, so nothing can be registered.")
    fine_tune = FineTune.objects.select_related("base_version__model", "data_version__dataset").get(job=kept.job_id)
    version = finetunes.register_weights(
        fine_tune,
        job,
        {**kept.metrics, "step": kept.step},
        artifact,
        by=finetunes.on_behalf(job),
        model=job.params["model"],
        source=f"checkpoint of job {kept.job_id}, attempt {kept.attempt}, step {kept.step}",
    )
    edges.link(kept.job, "saved", version, workspace=job.workspace)
    return {"model": str(version.model_id), "model_version": str(version.pk), "version": str(version)}


def retried(old: Job, new: Job) -> None:
    """Outcome handler: the same checkpoint again."""
    new.start_checkpoint = old.start_checkpoint
    new.save(update_fields=["start_checkpoint"])
