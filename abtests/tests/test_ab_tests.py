"""A test takes the model's route, keeps everybody in their variant, and gives the route back."""

import pytest

from abtests.actions import abtests
from abtests.actions.abtests import Share
from abtests.counting import arms
from abtests.models import ABTest, TestState, Variant
from project.kernel.errors import Conflict, Forbidden, Invalid, NotFound, NotReady
from project.kernel.models import AuditEntry
from registry.actions import deployments, routes
from registry.models import Deployment, DeploymentState, Route

from abtests.tests.conftest import make_version  # isort: skip


@pytest.fixture
def by(cast):
    return cast.actor("operator")


@pytest.fixture
def draft(world, by):
    return abtests.create(
        name="tone", variants=[Share("intents:1", 80), Share("intents:2", 20)], by=by, metrics=["rating", "latency"]
    )


def route_of(model):
    route = Route.objects.get(model=model)
    return route.owner, [(arm.key, arm.deployment.version.number, arm.weight) for arm in route.arms.all()]


def test_a_draft_deploys_its_versions(world, by):
    three = make_version(world.model)
    test = abtests.create(name="new", variants=[Share("intents"), Share(str(three.pk))], by=by)
    assert (test.state, test.model, test.metrics) == ("draft", world.model, ["rating"])
    one, two = test.variants.all()
    assert (one.key, one.version, one.weight, one.deployed_here) == ("a", world.one, 50, False)
    assert (two.key, two.version, two.deployed_here) == ("b", three, True)
    assert two.deployment.wanted and two.deployment.state == DeploymentState.PENDING
    assert not Route.objects.filter(owner=test.owner).exists()


def test_start_takes_the_route_and_stop_gives_it_back(world, draft, by):
    test = abtests.start(draft, by=by)
    assert (test.state, test.started_at is not None) == ("running", True)
    assert route_of(world.model) == (test.owner, [("a", 1, 80), ("b", 2, 20)])
    assert Route.objects.get().salt == test.salt
    test = abtests.stop(test, by=by, winner="b")
    assert (test.state, test.winner.version, test.stopped_at is not None) == ("stopped", world.two, True)
    assert route_of(world.model) == ("", [("main", 1, 100)])
    assert set(AuditEntry.objects.filter(object_kind="abtest").values_list("verb", flat=True)) == {
        "abtest.created",
        "abtest.started",
        "abtest.stopped",
    }


def test_everybody_meets_their_variant_again_after_a_pause(world, draft, by):
    test = abtests.start(draft, by=by)
    begun = test.started_at
    test = abtests.pause(test, by=by)
    assert (test.state, route_of(world.model)) == ("paused", ("", [("main", 1, 100)]))
    assert world.deployment(world.two).wanted  # still there to go on with
    Route.objects.update(salt="another test's")
    test = abtests.start(test, by=by)
    assert (test.state, test.started_at) == ("running", begun)
    assert Route.objects.get().salt == test.salt


def test_a_model_without_production_ends_on_the_first_variant(world, draft, by):
    world.one.move("staging", start=["production"])
    test = abtests.stop(abtests.start(draft, by=by), by=by)
    assert route_of(world.model) == ("", [("main", 1, 100)])
    assert test.winner is None


def test_a_variant_that_is_not_healthy_refuses_the_start(world, draft, by):
    Deployment.objects.filter(version=world.two).update(state=DeploymentState.LOADING)
    with pytest.raises(NotReady, match="intents:2 is still being loaded"):
        abtests.start(draft, by=by)
    draft.refresh_from_db()
    assert draft.state == "draft" and not Route.objects.filter(owner=draft.owner).exists()


def test_a_variant_that_was_stopped_is_deployed_again(world, draft, by):
    deployments.stop(world.deployment(world.two), by=by)
    with pytest.raises(NotReady):
        abtests.start(draft, by=by)
    again = world.deployment(world.two)
    assert draft.variants.get(key="b").deployment == again
    again.move(DeploymentState.HEALTHY)
    assert abtests.start(draft, by=by).is_running


def test_a_route_that_somebody_holds_refuses_the_start(world, draft, by):
    other = abtests.create(name="other", variants=[Share("intents:2"), Share("intents:1")], by=by)
    abtests.start(other, by=by)
    with pytest.raises(Conflict, match="An A/B test decides"):
        abtests.start(draft, by=by)
    abtests.stop(other, by=by)
    routes.set_arms(world.model, [routes.Arm(world.deployment(world.two))], owner="rollout", by=by)
    with pytest.raises(Conflict, match="A roll-out decides"):
        abtests.start(draft, by=by)


def test_what_cannot_be_done_in_a_state_is_refused(world, draft, by):
    with pytest.raises(Conflict):
        abtests.pause(draft, by=by)
    with pytest.raises(Conflict):
        abtests.stop(draft, by=by)
    running = abtests.start(draft, by=by)
    with pytest.raises(Conflict):
        abtests.start(draft, by=by)
    with pytest.raises(Conflict, match="is running"):
        abtests.delete(running, by=by)
    with pytest.raises(Conflict, match="only be changed before the start"):
        abtests.edit(running, by=by, variants=[Share("intents:1", 50), Share("intents:2", 50)])
    stopped = abtests.stop(running, by=by)
    for change in (abtests.start, abtests.pause, abtests.stop):
        with pytest.raises(Conflict):
            change(stopped, by=by)
    assert [variant.weight for variant in stopped.variants.all()] == [80, 20]


def test_a_running_test_may_be_renamed(world, draft, by):
    running = abtests.start(draft, by=by)
    assert abtests.edit(running, by=by, name="a better name", description="why").name == "a better name"


def test_a_draft_may_be_changed(world, draft, by):
    three = make_version(world.model)
    test = abtests.edit(draft, by=by, variants=[Share("intents:1", 1), Share("intents:3", 1)], metrics=["thumb"])
    assert [variant.version for variant in test.variants.all()] == [world.one, three]
    assert test.metrics == ["thumb"]


def test_a_version_in_use_by_a_test_keeps_its_deployment(world, draft, by):
    abtests.start(draft, by=by)
    with pytest.raises(Conflict, match="A/B test"):
        deployments.stop(world.deployment(world.two), by=by)


def test_what_only_the_test_deployed_ends_with_it(world, by):
    three, four = make_version(world.model), make_version(world.model)
    test = abtests.create(name="t", variants=[Share(f"intents:{n}") for n in (1, 3, 4)], by=by)
    Deployment.objects.filter(version__in=(three, four)).update(state=DeploymentState.HEALTHY)
    abtests.stop(abtests.start(test, by=by), by=by, winner="c")
    wanted = Deployment.objects.filter(wanted=True).values_list("version__number", flat=True)
    assert set(wanted) == {1, 2, 4}  # production, what was there before, and the winner


def test_delete_keeps_what_was_counted(world, draft, by):
    test = abtests.stop(abtests.start(draft, by=by), by=by, winner="a")
    answer = world.answer(test_id=test.pk, arm="a")
    with pytest.raises(Conflict, match="record stays"):
        abtests.delete(test, by=by)
    answer.delete()
    abtests.delete(test, by=by)
    assert not ABTest.objects.exists() and not Variant.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"metrics": ["ratting"]}, "metrics"),
        ({"unit": "request"}, "unit"),
        ({"variants": [Share("intents:1")]}, "variants"),
        ({"variants": [Share("intents:1")] * 11}, "variants"),
        ({"variants": [Share("intents:1"), Share("intents:1")]}, "variants.1.version"),
        ({"variants": [Share("intents:1"), Share("intents:99")]}, "variants.1.version"),
        ({"variants": [Share("intents:1"), Share("intent:2")]}, "variants.1.version"),
        ({"variants": [Share("intents:1"), Share("not a reference")]}, "variants.1.version"),
        ({"variants": [Share("intents:1"), Share("other:1")]}, "variants.1.version"),
        ({"variants": [Share("intents:1", 0), Share("intents:2")]}, "variants.0.weight"),
        ({"variants": [Share("intents:1", 10_001), Share("intents:2")]}, "variants.0.weight"),
    ],
)
def test_bad_input_names_its_field_and_leaves_nothing(world, make_world, by, change, field):
    make_world(world.workspace, "other")
    wanted = {"name": "t", "variants": [Share("intents:1"), Share("intents:2")], **change}
    with pytest.raises(Invalid) as problem:
        abtests.create(**wanted, by=by)
    assert field in problem.value.errors
    assert not ABTest.objects.exists() and Deployment.objects.count() == 4


def test_a_near_metric_is_suggested(world, by):
    with pytest.raises(Invalid, match="Did you mean 'rating'"):
        abtests.create(name="t", variants=[Share("intents:1"), Share("intents:2")], by=by, metrics=["ratng"])


def test_a_name_is_used_once(world, draft, by):
    with pytest.raises(Invalid, match="already"):
        abtests.create(name="tone", variants=[Share("intents:1"), Share("intents:2")], by=by)


def test_who_may(cast, world, draft):
    for name, problem in (("viewer", Forbidden), ("teammate", Forbidden), ("stranger", NotFound)):
        for change in (abtests.start, abtests.pause, abtests.stop, abtests.delete):
            with pytest.raises(problem):
                change(draft, by=cast.actor(name))
    with pytest.raises(Invalid):  # the versions of others do not exist
        variants = [Share(str(world.one.pk)), Share(str(world.two.pk))]
        abtests.create(name="spy", variants=variants, by=cast.actor("stranger"))


def test_results_can_be_asked_for_in_every_state(world, draft, by):
    assert arms.count(draft).units == 0
    test = abtests.start(draft, by=by)
    world.answer(test_id=test.pk, arm="a")
    assert arms.count(test).units == 1
    for change in (abtests.pause, abtests.start, abtests.stop):
        test = change(test, by=by)
        assert arms.count(test).units == 1
    assert test.state == TestState.STOPPED


def test_a_version_in_a_test_cannot_be_deleted(cast, world, draft, by):
    abtests.start(draft, by=by)
    api, page = cast.api("operator"), cast.page("operator")
    refused = api.delete(f"/api/v1/model-versions/{world.two.pk}/")
    assert refused.status_code == 409, refused.content
    page.post(f"/model-versions/{world.two.pk}/delete/")
    world.two.refresh_from_db()


def test_a_promotion_while_a_test_runs_leaves_the_split_alone(cast, world, draft, by):
    test = abtests.start(draft, by=by)
    cast.api("operator").post(f"/api/v1/model-versions/{world.two.pk}/promote/")
    assert route_of(world.model) == (test.owner, [("a", 1, 80), ("b", 2, 20)])
