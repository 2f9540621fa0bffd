"""What people do with versions: register, submit, approve, promote, archive, annotate, delete."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from project.kernel import access, audit, edges, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, NotReady, invalid
from project.kernel.models import Artifact
from registry import gates
from registry.actions import deployments, routes, stages
from registry.models import DeploymentState, Engine, EngineState, ModelVersion, RegisteredModel, Stage, VersionKind

MAX_NOTES = 20_000  # characters


@transaction.atomic
def register(
    model: RegisteredModel,
    *,
    artifact: Artifact,
    kind: str,
    by: Actor,
    base: ModelVersion | None = None,
    facts: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    origin: str = "training",
    source: str = "",
    job_id: UUID | None = None,
    data_digest: str = "",
    config: dict[str, Any] | None = None,
    notes: str = "",
) -> ModelVersion:
    """A new version of `model` in stage draft. `kind` 'adapter' needs its full `base`. Idempotent per job.

    The first version of an imported model is in production at once, because base models are used by their name; every
    other one has to pass the gates. Raises Conflict for a base that can't be one.
    """
    access.require(by, "version.register", model)
    _check_base(kind, base, model)
    RegisteredModel.locked(model.pk)
    if job_id and (known := ModelVersion.objects.filter(model=model, job_id=job_id).first()):
        return known
    number = model.next_number()
    at_once = origin == "import" and number == 1
    version = ModelVersion.objects.create(
        workspace=model.workspace,
        created_by=by.label,
        model=model,
        number=number,
        stage=Stage.PRODUCTION if at_once else Stage.DRAFT,
        kind=kind,
        base=base,
        artifact=artifact,
        facts=facts or {},
        metrics=metrics or {},
        origin=origin,
        source=source,
        job_id=job_id,
        data_digest=data_digest,
        config=config or {},
        notes=notes,
    )
    stages.record(version, "imported" if at_once else "registered", left="", by=by)
    if base is not None:
        edges.link(base, "base of", version, workspace=model.workspace)
    model.save(update_fields=["updated_at"])
    audit.record("version.registered", version, by=by, origin=origin, source=source, artifact=str(artifact.pk))
    _tell(version)
    return version


def _check_base(kind: str, base: ModelVersion | None, model: RegisteredModel) -> None:
    if kind not in VersionKind.values:
        raise invalid("kind", f"Unknown kind '{kind}'. Use one of: {', '.join(VersionKind.values)}.")
    if (kind == VersionKind.ADAPTER) != (base is not None):
        raise Conflict("An adapter needs its base model, and a full model has none.")
    if base is not None and (base.is_adapter or base.workspace_id != model.workspace_id):
        raise Conflict(
            f"{base} can't be a base: it is itself an adapter." if base.is_adapter else "No such base model."
        )


@transaction.atomic
def submit(version: ModelVersion, *, by: Actor, comment: str = "") -> ModelVersion:
    """Ask for promotion: draft (or archived) -> staging."""
    access.require(by, "version.submit", version)
    return _step(version, Stage.STAGING, (Stage.DRAFT, Stage.ARCHIVED), "submitted", by=by, comment=comment)


@transaction.atomic
def approve(version: ModelVersion, *, by: Actor, comment: str = "") -> ModelVersion:
    """Say in the record that this version may go to production. It stays in staging until somebody promotes it."""
    access.require(by, "version.approve", version)
    if version.stage != Stage.STAGING:
        raise Conflict(f"{version} is in stage '{version.stage}'; only what was submitted to staging can be approved.")
    change = stages.record(version, "approved", left=version.stage, by=by, comment=comment, at=timezone.now())
    audit.record("version.approved", version, by=by, stage_change=change.pk)
    return version


@transaction.atomic
def archive(version: ModelVersion, *, by: Actor, comment: str = "") -> ModelVersion:
    """Put a version away. Not while it is deployed."""
    access.require(by, "version.archive", version)
    if version.deployments.filter(wanted=True).exists():
        raise Conflict(f"{version} is deployed. Stop its deployment first.")
    start = (Stage.DRAFT, Stage.STAGING, Stage.PRODUCTION)
    return _step(version, Stage.ARCHIVED, start, "archived", by=by, comment=comment)


@transaction.atomic
def promote(version: ModelVersion, *, by: Actor, comment: str = "") -> ModelVersion:
    """Make `version` the one in production. Gates decide; a person may not skip them.

    The version it replaces goes back to staging, so that promoting that one again is the way back. If the model has a
    route, its traffic moves over as soon as the new deployment is healthy. Raises NotReady with what the gates say, and
    Conflict for a version that is there already or archived, and while an A/B test holds the route.
    """
    access.require(by, "version.promote", version)
    model = RegisteredModel.locked(version.model_id)
    version.refresh_from_db(fields=["stage"])
    if version.stage == Stage.PRODUCTION:
        raise Conflict(f"{version} is in production already.")
    if version.stage == Stage.ARCHIVED:
        raise Conflict(f"{version} is archived. Submit it to staging first.")
    routes.require_free(model)
    verdicts = gates.examine(version)
    if refused := gates.refusals(verdicts):
        raise NotReady(refused)
    previous = model.in_production()
    if previous is not None:
        previous.model = version.model = model
        left = previous.move(Stage.STAGING, start=(Stage.PRODUCTION,))
        stages.record(previous, "replaced", left=left, by=by, comment=f"by {version}")
    left = version.move(Stage.PRODUCTION, start=(Stage.DRAFT, Stage.STAGING))
    stages.record(version, "promoted", left=left, by=by, comment=comment, verdicts=verdicts)
    audit.record(
        "version.promoted", version, by=by, replaced=str(previous) if previous else "", gates=[v.gate for v in verdicts]
    )
    _tell(version)
    if routes.exists(model):
        deployments.deploy(version, by=by)
    return version


@transaction.atomic
def annotate(version: ModelVersion, *, notes: str, by: Actor) -> ModelVersion:
    """Change the notes, the only thing about a version that changes."""
    access.require(by, "version.edit", version)
    if len(notes) > MAX_NOTES:
        raise invalid("notes", f"Use at most {MAX_NOTES:,} characters.")
    version.notes = notes
    version.save(update_fields=["notes"])
    audit.record("version.annotated", version, by=by)
    return version


@transaction.atomic
def delete(version: ModelVersion, *, by: Actor) -> None:
    """Forget a version nobody uses. The record of its stages stays; its files stay until they are pruned.

    Raises Conflict while it is deployed or in production. What else uses it is protected by the database.
    """
    access.require(by, "version.delete", version)
    if version.stage == Stage.PRODUCTION:
        raise Conflict(f"{version} is in production. Promote another version, or archive this one, first.")
    forget(version, by=by)


def forget(version: ModelVersion, *, by: Actor) -> None:
    """Remove the rows of a version that is not deployed, whatever its stage. Part of deleting it, or its model."""
    if version.deployments.filter(wanted=True).exists():
        raise Conflict(f"{version} is deployed. Stop its deployment first.")
    adapter = version.adapters.select_related("model").first()
    if adapter is not None:
        raise Conflict(f"{version} is the base of {adapter}; delete what was trained on it first.")
    audit.record("version.deleted", version, by=by, digest=version.artifact.digest)
    version.deployments.filter(state=DeploymentState.STOPPED).delete()
    Engine.objects.filter(base_version=version, state__in=(EngineState.STOPPED, EngineState.FAILED)).delete()
    key = version.pk
    version.delete()
    live.publish(f"workspace.{by.workspace.pk}", kind="version", id=str(key))


def _step(
    version: ModelVersion, to: Stage, start: tuple[Stage, ...], action: str, *, by: Actor, comment: str
) -> ModelVersion:
    RegisteredModel.locked(version.model_id)  # stages of one model change one by one
    version.refresh_from_db(fields=["stage"])
    left = version.move(to, start=start)
    stages.record(version, action, left=left, by=by, comment=comment)
    audit.record(f"version.{action}", version, by=by, left=left)
    _tell(version)
    return version


def _tell(version: ModelVersion) -> None:
    live.publish(f"workspace.{version.workspace_id}", kind="version", id=str(version.pk))
