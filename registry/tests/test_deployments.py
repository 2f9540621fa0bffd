"""Deployments and routes: production answers, moves over when the new one is healthy, and A/B tests are left alone."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from project.kernel.errors import Conflict, Forbidden, Invalid
from project.testing import Cast
from registry.actions import deployments, routes, versions
from registry.models import Deployment, DeploymentState, Engine, EngineState, ModelVersion, Route
from registry.tests.conftest import MakeVersion


@pytest.fixture
def live(cast: Cast, make_version: MakeVersion) -> tuple[ModelVersion, ModelVersion]:
    """Version 1 in production and answering, version 2 evaluated."""
    one, two = (make_version(scored={"f1": 0.9}) for _ in range(2))
    versions.promote(one, by=cast.actor("owner"))
    become_healthy(deployments.deploy(one, by=cast.actor("owner")))
    return one, two


def become_healthy(deployment: Deployment, **engine: Any) -> Deployment:
    """What the supervisor does."""
    row = Engine.objects.create(
        host="here",
        base_version=deployment.version.foundation,
        state=EngineState.READY,
        lease_until=timezone.now() + timedelta(minutes=1),
        **engine,
    )
    deployment.move(DeploymentState.HEALTHY, engine=row)
    deployments.became_healthy(deployment)
    return deployment


def arms(version: ModelVersion) -> list[tuple[str, str, int]]:
    route = Route.objects.get(model=version.model)
    return [(arm.key, str(arm.deployment.version), arm.weight) for arm in route.arms.all()]


def test_the_first_deployment_of_production_makes_the_route(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.9})
    deployments.deploy(version, by=cast.actor("operator"))
    assert not Route.objects.exists()
    versions.promote(version, by=cast.actor("operator"))
    assert not Route.objects.exists()
    again = deployments.deploy(version, by=cast.actor("operator"))
    assert Deployment.objects.count() == 1
    assert again.state == DeploymentState.PENDING
    assert arms(version) == [("main", "intents:1", 100)]


def test_traffic_moves_over_when_the_promoted_version_is_healthy(
    cast: Cast, live: tuple[ModelVersion, ModelVersion]
) -> None:
    one, two = live
    before = Route.objects.get().revision
    versions.promote(two, by=cast.actor("operator"))
    new = Deployment.objects.get(version=two)
    assert arms(two) == [("main", "intents:1", 100)]  # the old one answers until the new one can
    become_healthy(new)
    assert arms(two) == [("main", "intents:2", 100)]
    assert Route.objects.get().revision > before
    old = Deployment.objects.get(version=one)
    assert not old.wanted
    assert old.shown_state == "stopping"
    assert old.drain_until is not None
    assert old.drain_until > timezone.now()


def test_a_route_whose_deployment_never_worked_is_not_held_back(cast: Cast, make_version: MakeVersion) -> None:
    one, two = (make_version(scored={"f1": 0.9}) for _ in range(2))
    versions.promote(one, by=cast.actor("owner"))
    deployments.deploy(one, by=cast.actor("owner"))
    versions.promote(two, by=cast.actor("owner"))
    assert arms(two) == [("main", "intents:2", 100)]


def test_a_deployed_test_version_changes_no_route(cast: Cast, live: tuple[ModelVersion, ModelVersion]) -> None:
    one, two = live
    become_healthy(deployments.deploy(two, by=cast.actor("operator")))
    assert arms(one) == [("main", "intents:1", 100)]


def test_an_ab_test_excludes_promotion_and_other_owners(cast: Cast, live: tuple[ModelVersion, ModelVersion]) -> None:
    one, two = live
    by = cast.actor("operator")
    both = [Deployment.objects.get(version=one), become_healthy(deployments.deploy(two, by=by))]
    shares = [routes.Arm(deployment, key, 50) for deployment, key in zip(both, "ab", strict=True)]
    route = routes.set_arms(one.model, shares, owner="abtest:1", by=by)
    assert arms(one) == [("a", "intents:1", 50), ("b", "intents:2", 50)]
    with pytest.raises(Conflict, match="A/B test decides"):
        versions.promote(two, by=by)
    with pytest.raises(Conflict, match="A/B test decides"):
        routes.set_arms(one.model, shares, owner="abtest:2", by=by)
    with pytest.raises(Conflict, match="A/B test uses"):
        deployments.stop(both[0], by=by)
    become_healthy(both[1])
    assert len(arms(one)) == 2
    routes.release(route, owner="abtest:1", by=by)
    assert arms(one) == [("main", "intents:1", 100)]
    versions.promote(two, by=by)


def test_arms_that_make_no_sense(
    cast: Cast, live: tuple[ModelVersion, ModelVersion], make_version: MakeVersion
) -> None:
    by = cast.actor("operator")
    mine = Deployment.objects.get(version=live[0])
    other = deployments.deploy(make_version("another"), by=by)
    for wrong in (
        [],
        [routes.Arm(mine, "a", 0)],
        [routes.Arm(mine, "a"), routes.Arm(mine, "b")],
        [routes.Arm(mine, "a"), routes.Arm(other, "b")],
        [routes.Arm(mine, "a", -1)],
    ):
        with pytest.raises(Invalid):
            routes.set_arms(live[0].model, wrong, owner="abtest:1", by=by)
    assert arms(live[0]) == [("main", "intents:1", 100)]


def test_stopping(cast: Cast, live: tuple[ModelVersion, ModelVersion]) -> None:
    one, _ = live
    by = cast.actor("operator")
    deployment = Deployment.objects.get(version=one)
    with pytest.raises(Forbidden):
        deployments.stop(deployment, by=cast.actor("teammate"))
    with pytest.raises(Conflict, match="Stop its deployment first"):
        versions.archive(one, by=by)
    deployments.stop(deployment, by=by)
    assert arms(one) == []
    assert deployment.shown_state == "stopping"  # its engine is alive and finishes its answers
    deployments.stop(deployment, by=by)
    versions.archive(one, by=by)
    with pytest.raises(Conflict, match="is archived"):
        deployments.deploy(one, by=by)


def test_stopping_what_no_engine_holds_is_over_at_once(cast: Cast, make_version: MakeVersion) -> None:
    deployment = deployments.deploy(make_version(), by=cast.actor("operator"))
    deployments.stop(deployment, by=cast.actor("operator"))
    assert deployment.state == DeploymentState.STOPPED
    assert not deployment.move(DeploymentState.LOADING)
    assert deployments.deploy(deployment.version, by=cast.actor("operator")).pk != deployment.pk


def test_deploying_a_failed_one_again_tries_at_once(cast: Cast, make_version: MakeVersion) -> None:
    deployment = deployments.deploy(make_version(), by=cast.actor("operator"))
    deployment.move(DeploymentState.FAILED, failures=4, retry_at=timezone.now() + timedelta(hours=1), failure="no room")
    again = deployments.deploy(deployment.version, by=cast.actor("operator"))
    assert (again.pk, again.state, again.retry_at, again.failures) == (deployment.pk, "pending", None, 0)


def test_one_wanted_deployment_per_version(cast: Cast, make_version: MakeVersion) -> None:
    deployment = deployments.deploy(make_version(), by=cast.actor("operator"))
    with pytest.raises(IntegrityError), transaction.atomic():
        Deployment.objects.create(workspace=cast.workspace, version=deployment.version)


def test_an_engines_secret_is_its_own_and_stays_the_same(cast: Cast, make_version: MakeVersion) -> None:
    base = make_version()
    one, two = (Engine.objects.create(host="here", base_version=base) for _ in range(2))
    assert one.secret != two.secret
    assert Engine.objects.get(pk=one.pk).secret == one.secret
    assert one.secret not in str(Engine.objects.filter(pk=one.pk).values().get())
