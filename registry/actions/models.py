"""What people do with models: create, describe, import, delete."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from project.contracts.runs import UserError
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, audit, edges, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid, NotFound, NotReady, invalid
from project.kernel.models import Artifact, Workspace
from project.kernel.references import check_name
from registry import sources
from registry.actions import versions
from registry.actions.references import resolve
from registry.models import ModelVersion, RegisteredModel
from registry.recipes import import_model as recipe

MAX_DESCRIPTION = 5_000  # characters
MAX_TAGS = 20


@transaction.atomic
def create(
    workspace: Workspace, name: str, *, by: Actor, description: str = "", tags: Sequence[str] = ()
) -> RegisteredModel:
    """A model without versions yet. Raises Invalid for an unusable name, Conflict for one that is taken."""
    access.require(by, "model.create", workspace)
    name = check_name(name)
    try:
        with transaction.atomic():
            model = RegisteredModel.objects.create(
                workspace=workspace,
                created_by=by.label,
                name=name,
                description=_description(description),
                tags=_tags(tags),
            )
    except IntegrityError:
        raise Conflict(errors={"name": [f"There is a model '{name}' already."]}) from None
    audit.record("model.created", model, by=by)
    return model


@transaction.atomic
def edit(
    model: RegisteredModel,
    *,
    by: Actor,
    name: str | None = None,
    description: str | None = None,
    tags: Sequence[str] | None = None,
) -> RegisteredModel:
    """Rename or describe a model. Applications that use the old name must be told: it no longer answers."""
    access.require(by, "model.edit", model)
    before = model.name
    if name is not None:
        model.name = check_name(name)
    if description is not None:
        model.description = _description(description)
    if tags is not None:
        model.tags = _tags(tags)
    try:
        with transaction.atomic():
            model.save(update_fields=["name", "description", "tags", "updated_at"])
    except IntegrityError:
        raise Conflict(errors={"name": [f"There is a model '{model.name}' already."]}) from None
    audit.record("model.edited", model, by=by, **({"renamed_from": before} if before != model.name else {}))
    live.publish(f"workspace.{model.workspace_id}", kind="model", id=str(model.pk))
    return model


@transaction.atomic
def delete(model: RegisteredModel, *, by: Actor) -> None:
    """Forget a model and its versions, unless something uses them. The record of their stages stays."""
    access.require(by, "model.delete", model)
    for version in model.versions.select_related("model", "artifact").order_by("-number"):
        versions.forget(version, by=by)
    if hasattr(model, "route"):
        model.route.delete()
    audit.record("model.deleted", model, by=by)
    key = model.pk
    model.delete()
    live.publish(f"workspace.{by.workspace.pk}", kind="model", id=str(key))


def import_model(
    source: str, *, workspace: Workspace, by: Actor, name: str = "", base: str = "", dtype: str = "auto"
) -> Job:
    """Start importing `source` as the next version of the model `name` (default: after the source), and return the job.

    `base` names the base model of an adapter. The model and its version appear when the job has succeeded; a failed
    import leaves nothing behind. Raises Invalid that names the field.
    """
    access.require(by, "model.import", workspace)
    try:
        wanted = sources.parse(source)
        name = check_name(name or sources.suggested_name(wanted))
        inputs = _inputs(wanted)
    except UserError as error:
        raise Invalid(errors={error.field or "source": [f"{error} {error.hint}".strip()]}) from None
    params: dict[str, Any] = {"source": str(wanted), "name": name, "dtype": dtype}
    if base:
        version = _base(workspace, base)
        params["base"] = str(version.pk)
        inputs["base"] = version.artifact
    return jobs.launch(
        recipe.name,
        params,
        workspace=workspace,
        by=by,
        title=f"Import {name} from {wanted}",
        inputs=inputs,
        verb="model.import",
    )


def _base(workspace: Workspace, reference: str) -> ModelVersion:
    try:
        version = resolve(workspace, reference, field="base")
    except (NotFound, NotReady) as problem:
        raise invalid("base", problem.detail) from None
    if version.is_adapter:
        raise invalid("base", f"{version} is itself an adapter; name the full model it was trained on.")
    return version


def _inputs(source: sources.Source) -> dict[str, Any]:
    """What the recipe may read. Looks now, so that the asker hears at once about what is not there."""
    if source.kind == "dir":
        return {"folder": str(sources.folder_below(settings.MODEL_DIR_ROOT, source.name))}
    if source.kind == "pip":
        sources.package_folder(source.name)
    return {}


def import_finished(job: Job, done: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """Outcome handler: the imported files become a version, in the transaction that lets the job succeed."""
    if artifact is None:
        raise Conflict("The import produced no files.")
    by = Actor.system(job.created_by or "import", job.workspace)
    model = RegisteredModel.objects.filter(workspace=job.workspace, name=job.params["name"]).first() or create(
        job.workspace, job.params["name"], by=by
    )
    base = resolve(job.workspace, job.params["base"]) if job.params.get("base") else None
    version = versions.register(
        model,
        artifact=artifact,
        kind=done["kind"],
        base=base,
        by=by,
        facts={**done["facts"], **({"revision": done["revision"]} if done.get("revision") else {})},
        origin="import",
        source=done["source"],
        job_id=job.pk,
    )
    edges.link(job, "imported", version, workspace=job.workspace)
    return {"model": str(model.pk), "model_version": str(version.pk)}


def _description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION:
        raise invalid("description", f"Use at most {MAX_DESCRIPTION:,} characters.")
    return text.strip()


def _tags(tags: Sequence[str]) -> list[str]:
    cleaned = sorted({tag.strip() for tag in tags} - {""})
    if len(cleaned) > MAX_TAGS or any(len(tag) > 40 for tag in cleaned):
        raise invalid("tags", f"Use at most {MAX_TAGS} tags of at most 40 characters.")
    return cleaned
