"""Who answers for a model. Only roll-outs and A/B tests write here, and one excludes the other."""

from collections.abc import Sequence
from typing import NamedTuple

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from project.kernel import access, audit, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, invalid
from registry.models import Deployment, RegisteredModel, Route, RouteArm

MAX_ARMS = 10


class Arm(NamedTuple):
    """A share of a model's traffic. Weights are relative whole numbers."""

    deployment: Deployment
    key: str = "main"
    weight: int = 100


def exists(model: RegisteredModel) -> bool:
    return Route.objects.filter(model=model).exists()


def require_free(model: RegisteredModel) -> None:
    """Raise Conflict while an A/B test or a roll-out holds the model's route."""
    route = Route.objects.filter(model=model).first()
    if route is not None and route.owner:
        raise Conflict(f"{_holder(route.owner)} decides who answers for {model} at the moment. Stop it first.")


@transaction.atomic
def set_arms(model: RegisteredModel, arms: Sequence[Arm], *, owner: str, by: Actor, salt: str = "") -> Route:
    """Share the model's traffic out among `arms`, and hold the route as `owner` ('' = it follows production).

    Makes the route when there is none. `salt` decides anew who gets which arm; '' leaves that as it is. Raises Conflict
    when somebody else holds the route, Invalid for arms that make no sense.
    """
    access.require(by, "route.edit", model)
    RegisteredModel.locked(model.pk)
    route, _ = Route.objects.select_related("model").get_or_create(
        model=model, defaults={"workspace": model.workspace, "created_by": by.label}
    )
    if route.owner and route.owner != owner:
        raise Conflict(f"{_holder(route.owner)} decides who answers for {route.model} at the moment. Stop it first.")
    _check(route, arms)
    if salt:
        Route.objects.filter(pk=route.pk).update(salt=salt)
    _write(route, arms, owner)
    shares = {arm.key: {"version": str(arm.deployment.version), "weight": arm.weight} for arm in arms}
    audit.record("route.changed", route, by=by, owner=owner, arms=shares)
    return route


@transaction.atomic
def release(route: Route, *, owner: str, by: Actor) -> Route:
    """Give the route back: from now on it follows production again. Does nothing unless `owner` holds it."""
    access.require(by, "route.edit", route)
    RegisteredModel.locked(route.model_id)
    if Route.objects.filter(pk=route.pk, owner=owner).update(owner="", revision=F("revision") + 1):
        audit.record("route.released", route, by=by, owner=owner)
    route.refresh_from_db()
    follow_production(route.model, by=by)
    return route


@transaction.atomic
def follow_production(model: RegisteredModel, *, by: Actor) -> Route | None:
    """Let the version in production answer, if it is deployed: at once when nobody answers, else when it is healthy.

    Makes the route on the first call. Returns it, or None when there is nothing to route to. What answered before is
    let go. Does nothing while a roll-out or an A/B test holds the route.
    """
    model = RegisteredModel.locked(model.pk)
    production = model.in_production()
    wanted = Deployment.objects.filter(version=production, wanted=True).first() if production else None
    if wanted is None:
        return Route.objects.filter(model=model).first()
    route, _ = Route.objects.get_or_create(model=model, defaults={"workspace": model.workspace, "created_by": by.label})
    arms = list(route.arms.select_related("deployment"))
    if route.owner or [arm.deployment_id for arm in arms] == [wanted.pk]:
        return route
    if any(arm.deployment.wanted and arm.deployment.is_healthy for arm in arms) and not wanted.is_healthy:
        return route  # what answers now goes on until the new one can
    _write(route, [Arm(wanted)], "")
    audit.record("route.changed", route, by=by, owner="", arms={"main": {"version": str(production), "weight": 100}})
    for arm in arms:
        if arm.deployment_id != wanted.pk:
            let_go(arm.deployment)
    return route


def let_go(deployment: Deployment) -> None:
    """Not wanted any more; it goes on for a moment, because gateways and answers under way still use it."""
    now = timezone.now()
    Deployment.objects.filter(pk=deployment.pk, wanted=True).update(wanted=False, drain_until=now + Deployment.DRAIN)
    live.publish(f"workspace.{deployment.workspace_id}", kind="deployment", id=str(deployment.pk))


def drop_arm(deployment: Deployment) -> None:
    """Take a deployment that is being stopped out of its route. Raises Conflict when an A/B test needs it."""
    for arm in RouteArm.objects.filter(deployment=deployment).select_related("route__model"):
        if arm.route.owner:
            raise Conflict(f"{_holder(arm.route.owner)} uses this deployment. Stop it first.")
        arm.delete()
        Route.objects.filter(pk=arm.route_id).update(revision=F("revision") + 1, updated_at=timezone.now())


def _write(route: Route, arms: Sequence[Arm], owner: str) -> None:
    route.arms.all().delete()
    RouteArm.objects.bulk_create(
        RouteArm(route=route, deployment=arm.deployment, key=arm.key, weight=arm.weight, position=position)
        for position, arm in enumerate(arms)
    )
    Route.objects.filter(pk=route.pk).update(owner=owner, revision=F("revision") + 1, updated_at=timezone.now())
    route.refresh_from_db()
    live.publish(f"workspace.{route.workspace_id}", kind="route", id=str(route.pk))


def _check(route: Route, arms: Sequence[Arm]) -> None:
    if not 1 <= len(arms) <= MAX_ARMS:
        raise invalid("arms", f"Use 1 to {MAX_ARMS} arms.")
    if len({arm.key for arm in arms}) != len(arms) or len({arm.deployment.pk for arm in arms}) != len(arms):
        raise invalid("arms", "Each arm needs a key and a deployment of its own.")
    for arm in arms:
        if arm.deployment.version.model_id != route.model_id or not arm.deployment.wanted:
            raise invalid("arms", f"{arm.deployment} is not a running deployment of {route.model}.")
        if not 0 <= arm.weight <= 1_000_000:
            raise invalid("arms", "A weight is a whole number from 0 to 1,000,000.")
    if not sum(arm.weight for arm in arms):
        raise invalid("arms", "At least one arm needs a weight above 0.")


def _holder(owner: str) -> str:
    return "An A/B test" if owner.startswith("abtest:") else "A roll-out"
