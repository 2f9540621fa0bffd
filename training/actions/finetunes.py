"""Fine-tunes: launch one from a job file, and take in what came of it."""

from typing import Any
from uuid import UUID

from django.db import transaction

from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, artifacts, audit, edges
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Problem
from project.kernel.models import Artifact, Role
from project.modeling.loading import describe
from registry.actions import deployments, models, versions
from registry.adapters import describe_adapter, is_adapter
from registry.models import ModelVersion, RegisteredModel, VersionKind
from training.actions import evaluations
from training.jobfile import JobFile, with_params
from training.models import FineTune
from training.planning import files_of, plan


@transaction.atomic
def launch(config: JobFile, *, by: Actor, start: bool = True) -> Job:
    """Start a fine-tune, or with `start` false leave it as a draft. Returns its job.

    References are resolved to ids here, and numbers that were left out are settled. Raises Invalid with every wrong
    field of the job file by its dotted path, Forbidden; nothing is written then.
    """
    access.require(by, "finetune.create", by.workspace)
    jobs.require_priority(config.limits.priority, by, field="limits.priority")
    made = plan(config, by=by)
    fine_tune = FineTune(
        workspace=by.workspace,
        created_by=by.label,
        name=made.config.name,
        model_name=made.config.model.name or "",
        base_version=made.base,
        data_version=made.data,
        validation_version=made.validation,
        held_out_version=made.held_out,
        config=made.config.model_dump(mode="json"),
    )
    inputs = {"base": made.base.artifact, "data": files_of(made.data)}
    if made.validation is not None:
        inputs["validation"] = files_of(made.validation)
    job = jobs.launch(
        made.recipe.name,
        made.params,
        workspace=by.workspace,
        by=by,
        title=made.config.name,
        inputs=inputs,
        subject=fine_tune,
        start=start,
        time_limit=made.config.limits.time_limit,
        memory_limit=made.config.limits.memory_limit,
        priority=made.config.limits.priority,
        verb="finetune.create",
    )
    fine_tune.job = job
    fine_tune.save(force_insert=True)
    audit.record("finetune.created", fine_tune, by=by, job=str(job.pk), base=str(made.base), data=str(made.data))
    edges.link(made.base, "base of", job, workspace=by.workspace)
    edges.link(made.data, "rows of", job, workspace=by.workspace)
    return job


def finished(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """Outcome handler: the weights become a version, in the transaction that lets the job succeed."""
    if artifact is None:
        raise Conflict("The training produced no weights.")
    fine_tune = FineTune.objects.select_related("base_version__model", "data_version__dataset").get(job=job)
    by = on_behalf(job)
    version = register_weights(fine_tune, job, result, artifact, by=by)
    fine_tune.result_version = version
    fine_tune.save(update_fields=["result_version"])
    added = {"model": str(version.model_id), "model_version": str(version.pk), "version": str(version)}
    return {**added, **_evaluate(fine_tune, version, by=by), **_deploy(fine_tune, version, by=by)}


def register_weights(
    fine_tune: FineTune,
    job: Job,
    result: dict[str, Any],
    artifact: Artifact,
    *,
    by: Actor,
    model: str = "",
    source: str = "",
) -> ModelVersion:
    """The version of weights that `job` made of a fine-tune; of the model `model` instead of the fine-tune's own."""
    folder = artifacts.local_path(artifact)
    adapter = is_adapter(folder)
    data, base = fine_tune.data_version, fine_tune.base_version
    version = versions.register(
        _model(model or fine_tune.model_name, by=by),
        artifact=artifact,
        kind=VersionKind.ADAPTER if adapter else VersionKind.FULL,
        base=base if adapter else None,
        by=by,
        facts=describe_adapter(folder) if adapter else describe(folder).model_dump(),
        metrics={name: value for name, value in result.items() if _is_number(value)},
        origin="training",
        source=source,
        job_id=job.pk,
        data_digest=data.digest,
        config=fine_tune.config,
    )
    edges.link(data, "trained", version, workspace=job.workspace)
    edges.link(job, "made", version, workspace=job.workspace)
    if not adapter:
        edges.link(base, "starting point of", version, workspace=job.workspace)
    return version


def _model(name: str, *, by: Actor) -> RegisteredModel:
    known = RegisteredModel.objects.filter(workspace=by.workspace, name=name)
    try:
        return known.first() or models.create(by.workspace, name, by=by)
    except Conflict:  # another job has just made it
        return known.get()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _evaluate(fine_tune: FineTune, version: ModelVersion, *, by: Actor) -> dict[str, Any]:
    """Start the evaluation that the job file asks for. The training has succeeded, whatever comes of this."""
    wanted, rows = fine_tune.config["evaluation"], fine_tune.config["data"]
    if not wanted["metrics"]:
        return {}
    data, split = fine_tune.held_out_version or fine_tune.validation_version, None
    if data is None:
        data, split = fine_tune.data_version, evaluations.Split(rows["validation_split"], rows["seed"])
    try:
        with transaction.atomic():
            job = evaluations.launch(
                version, data, metrics=wanted["metrics"], limit=wanted["limit"], split=split, by=by
            )
    except Problem as problem:
        return {"evaluation_problem": problem.detail}
    return {"evaluation": str(job.evaluation.pk), "evaluation_job": str(job.pk)}


def _deploy(fine_tune: FineTune, version: ModelVersion, *, by: Actor) -> dict[str, Any]:
    wanted = fine_tune.config["deployment"]
    if not wanted["auto_deploy"]:
        return {}
    try:
        with transaction.atomic():
            return {"deployment": str(deployments.deploy(version, by=by, target=wanted["target"]).pk)}
    except Problem as problem:
        return {"deployment_problem": problem.detail}


def retried(old: Job, new: Job) -> None:
    """Outcome handler: a person's retry is a fine-tune of its own, with the same wishes."""
    fine_tune = FineTune.objects.get(job=old)
    changed = [name for name, value in new.params.items() if old.params.get(name) != value]  # by a remedy
    again = FineTune.objects.create(
        workspace=fine_tune.workspace,
        created_by=new.created_by,
        job=new,
        name=fine_tune.name,
        model_name=fine_tune.model_name,
        base_version_id=fine_tune.base_version_id,
        data_version_id=fine_tune.data_version_id,
        validation_version_id=fine_tune.validation_version_id,
        held_out_version_id=fine_tune.held_out_version_id,
        config=with_params(fine_tune.config, {name: new.params[name] for name in changed}),
    )
    new.subject_id = str(again.pk)
    edges.link(fine_tune.base_version, "base of", new, workspace=new.workspace)
    edges.link(fine_tune.data_version, "rows of", new, workspace=new.workspace)


def on_behalf(job: Job) -> Actor:
    """The system, acting for whoever started `job`: what follows from it is theirs too."""
    token = None if job.creator_user_id or not _is_uuid(job.creator_identity) else UUID(job.creator_identity)
    return Actor("system", job.created_by, job.workspace, Role.OWNER, user_id=job.creator_user_id, token_id=token)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
