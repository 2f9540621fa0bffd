"""Which versions should answer. People say what they want; the supervisor (registry.serving) makes it so."""

from django.db import transaction
from django.utils import timezone

from project.kernel import access, audit, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict
from registry.actions import routes
from registry.models import Deployment, DeploymentState, ModelVersion, RegisteredModel, Stage


@transaction.atomic
def deploy(version: ModelVersion, *, by: Actor, target: str = "local") -> Deployment:
    """Want `version` to be ready to answer. Wanting it again gives the same deployment; a failed one is tried at once.

    The first deployment of a version in production makes the model's route. Raises Conflict for an archived version.
    """
    access.require(by, "deployment.create", version)
    RegisteredModel.locked(version.model_id)
    version.refresh_from_db(fields=["stage"])
    if version.stage == Stage.ARCHIVED:
        raise Conflict(f"{version} is archived. Submit it to staging first.")
    deployment = Deployment.objects.filter(version=version, target=target, wanted=True).first()
    if deployment is None:
        deployment = Deployment.objects.create(
            workspace=version.workspace, created_by=by.label, version=version, target=target
        )
        audit.record("deployment.created", deployment, by=by)
    elif deployment.move(DeploymentState.PENDING, start=(DeploymentState.FAILED,), retry_at=None, failures=0):
        audit.record("deployment.retried", deployment, by=by)
    if version.stage == Stage.PRODUCTION:
        routes.follow_production(version.model, by=by)
    _tell(deployment)
    return deployment


@transaction.atomic
def stop(deployment: Deployment, *, by: Actor) -> Deployment:
    """Stop answering with this version. Stopping twice changes nothing. Raises Conflict while an A/B test needs it."""
    access.require(by, "deployment.stop", deployment)
    RegisteredModel.locked(deployment.version.model_id)
    routes.drop_arm(deployment)
    drain = timezone.now() + Deployment.DRAIN
    if Deployment.objects.filter(pk=deployment.pk, wanted=True).update(wanted=False, drain_until=drain):
        deployment.refresh_from_db()
        audit.record("deployment.stopped", deployment, by=by)
        if deployment.engine is None or not deployment.engine.is_alive():
            _stop_now(deployment)
        _tell(deployment)
    return deployment


def became_healthy(deployment: Deployment) -> None:
    """The supervisor says that it answers. If it is the version in production, the model's traffic moves over now."""
    routes.follow_production(deployment.version.model, by=Actor.system("serve", deployment.workspace))


def _stop_now(deployment: Deployment) -> None:
    """No living engine holds it, so nobody would report that it has stopped."""
    now = timezone.now()
    deployment.move(DeploymentState.STOPPED, stopped_at=now, drain_until=now, engine=None)


def _tell(deployment: Deployment) -> None:
    live.publish(f"workspace.{deployment.workspace_id}", kind="deployment", id=str(deployment.pk))
