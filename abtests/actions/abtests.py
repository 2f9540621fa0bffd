"""Tests of one version against another: set up, started, paused, stopped."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from django.db import transaction
from django.utils import timezone

from abtests.models import ABTest, TestState, Variant
from abtests.traffic import storable
from project.kernel import access, audit, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid, NotFound, NotReady, invalid
from registry.actions import deployments, routes
from registry.actions.references import resolve
from registry.models import Deployment, ModelVersion, Route, RouteArm

METRICS = {
    "rating": "Mean rating",
    "thumb": "Thumbs up",
    "error_rate": "Errors",
    "latency": "Time to answer",
    "length": "Tokens per answer",
}
UNITS = ("user",)
MAX_WEIGHT = 10_000
MAX_DESCRIPTION = 10_000
_OPEN = (TestState.DRAFT, TestState.RUNNING, TestState.PAUSED)


@dataclass(frozen=True)
class Share:
    """What somebody asks for: a version, by reference, and its weight against the others."""

    version: str
    weight: int = 50


def create(
    *,
    name: str,
    variants: Sequence[Share],
    by: Actor,
    description: str = "",
    metrics: Sequence[str] = (),
    unit: str = "user",
) -> ABTest:
    """A test as a draft; its versions are deployed, so that it can be started once they are healthy.

    Variants are called a, b, … in this order; the first is what the others are compared with. Metrics are given most
    important first; none means the rating. Raises Invalid naming every wrong field.
    """
    access.require(by, "abtest.create", by.workspace)
    errors = _problems(name=name, description=description, metrics=metrics, unit=unit, by=by)
    chosen = _versions(variants, errors, by=by)
    if errors:
        raise Invalid(errors=errors)
    with transaction.atomic():
        test = ABTest.objects.create(
            workspace=by.workspace,
            created_by=by.label,
            name=name.strip(),
            description=storable(description.strip()),
            model=chosen[0].model,
            metrics=list(dict.fromkeys(metrics)) or ["rating"],
            unit=unit,
        )
        _write_variants(test, chosen, variants, by=by)
        audit.record("abtest.created", test, by=by, model=str(test.model), split=_split(test))
    live.publish("abtests", test=str(test.pk))
    return test


@transaction.atomic
def edit(
    test: ABTest,
    *,
    by: Actor,
    name: str | None = None,
    description: str | None = None,
    metrics: Sequence[str] | None = None,
    variants: Sequence[Share] | None = None,
) -> ABTest:
    """Change what is given. Variants, shares and metrics can be changed in a draft only: later it would mix up who is
    counted where, or choose the metric after the result. Raises Conflict then."""
    access.require(by, "abtest.create", test)
    test = ABTest.objects.select_for_update().get(pk=test.pk)
    if (variants is not None or metrics is not None) and test.state != TestState.DRAFT:
        raise Conflict(
            f"'{test}' is {test.state}: variants, shares and metrics can only be changed before the start. "
            "Stop it and make a new one."
        )
    errors = _problems(
        name=test.name if name is None else name,
        description=test.description if description is None else description,
        metrics=test.metrics if metrics is None else metrics,
        unit=test.unit,
        by=by,
        test=test,
    )
    chosen = [] if variants is None else _versions(variants, errors, by=by)
    if errors:
        raise Invalid(errors=errors)
    if name is not None:
        test.name = name.strip()
    if description is not None:
        test.description = storable(description.strip())
    if metrics is not None:
        test.metrics = list(dict.fromkeys(metrics)) or ["rating"]
    if variants is not None:
        test.model = chosen[0].model
        kept = {version.pk for version in chosen}
        _free([variant for variant in test.variants.all() if variant.version_id not in kept], test, by=by)
        test.variants.all().delete()
        _write_variants(test, chosen, variants, by=by)
    test.save()
    audit.record("abtest.edited", test, by=by, split=_split(test))
    return test


def start(test: ABTest, *, by: Actor) -> ABTest:
    """Start a draft, or go on with a paused test: its variants take over the model's route.

    Raises Conflict when a roll-out or another test holds the route, NotReady while a variant is not healthy (it is
    deployed again when it was stopped meanwhile; try again in a moment).
    """
    access.require(by, "abtest.run", test)
    test.refresh_from_db(fields=["state"])
    if test.state not in (TestState.DRAFT, TestState.PAUSED):
        raise Conflict(f"'{test}' is {test.state}; only a draft or a paused test can be started.")
    routes.require_free(test.model)
    _deploy_again(test, by=by)  # stays done when the check below says no
    return _take_route(test, by=by)


@transaction.atomic
def _take_route(test: ABTest, *, by: Actor) -> ABTest:
    test = ABTest.objects.select_for_update().select_related("model").get(pk=test.pk)
    variants = list(test.variants.select_related("deployment__version__model", "version__model"))
    waiting = [_why_not(variant) for variant in variants if not _is_healthy(variant)]
    if waiting:
        raise NotReady(f"'{test}' can't start yet. {' '.join(waiting)}")
    first = test.started_at is None
    test.move(
        TestState.RUNNING,
        start=(TestState.DRAFT, TestState.PAUSED),
        **({"started_at": timezone.now()} if first else {}),
    )
    arms = [routes.Arm(v.deployment, v.key, v.weight) for v in variants if v.deployment is not None]
    # Each test has a salt of its own, so that who met which variant of the last test says nothing about this one.
    routes.set_arms(test.model, arms, owner=test.owner, by=by, salt=test.salt)
    audit.record("abtest.started" if first else "abtest.resumed", test, by=by, split=_split(test))
    live.publish("abtests", test=str(test.pk))
    return test


@transaction.atomic
def pause(test: ABTest, *, by: Actor) -> ABTest:
    """Give the route back: production answers and nothing is counted. Started again, everybody keeps their variant."""
    access.require(by, "abtest.run", test)
    test = ABTest.objects.select_for_update().select_related("model").get(pk=test.pk)
    test.move(TestState.PAUSED, start=(TestState.RUNNING,))
    _give_route_back(test, by=by)
    audit.record("abtest.paused", test, by=by)
    live.publish("abtests", test=str(test.pk))
    return test


@transaction.atomic
def stop(test: ABTest, *, by: Actor, winner: str | None = None) -> ABTest:
    """End a test for good, and note the `winner` by its key if somebody decided. Promoting it is a step of its own.

    What only this test had deployed is let go, except the winner. Raises Invalid for a winner that is no variant.
    """
    access.require(by, "abtest.run", test)
    test = ABTest.objects.select_for_update().select_related("model").get(pk=test.pk)
    variants = {variant.key: variant for variant in test.variants.select_related("version__model", "deployment")}
    if winner is not None and winner not in variants:
        raise invalid("winner", f"'{winner[:40]}' is no variant of this test. Variants: {', '.join(variants)}.")
    was_running = test.is_running
    won = variants[winner] if winner is not None else None
    test.move(TestState.STOPPED, start=(TestState.RUNNING, TestState.PAUSED), stopped_at=timezone.now(), winner=won)
    if was_running:
        _give_route_back(test, by=by)
    _free([variant for variant in variants.values() if variant != won], test, by=by)
    audit.record("abtest.stopped", test, by=by, winner=str(won.version) if won else "")
    live.publish("abtests", test=str(test.pk))
    return test


@transaction.atomic
def delete(test: ABTest, *, by: Actor) -> None:
    """Delete a draft, or a stopped test nobody took part in. Raises Conflict otherwise: counts are a record."""
    access.require(by, "abtest.delete", test)
    test = ABTest.objects.select_for_update().get(pk=test.pk)
    if test.state in (TestState.RUNNING, TestState.PAUSED):
        raise Conflict(f"'{test}' is {test.state}. Stop it first.")
    if test.answers.exists():
        raise Conflict(f"'{test}' has answers that were given in it; its record stays.")
    _free(list(test.variants.select_related("deployment")), test, by=by)
    audit.record("abtest.deleted", test, by=by)
    ABTest.objects.filter(pk=test.pk).update(winner=None)
    test.winner = None
    test.delete()


# --- checks


def _problems(
    *, name: str, description: str, metrics: Sequence[str], unit: str, by: Actor, test: ABTest | None = None
) -> dict[str, list[str]]:
    errors: dict[str, list[str]] = {}
    name = name.strip()
    if not name or len(name) > 100 or "\0" in name:
        errors["name"] = ["Give the test a name of up to 100 characters that says what it is about."]
    elif (test is None or name != test.name) and access.visible(ABTest.objects.filter(name=name), by).exists():
        errors["name"] = [f"There is a test called '{name}' already."]
    if len(description) > MAX_DESCRIPTION:
        errors["description"] = [f"Use at most {MAX_DESCRIPTION:,} characters."]
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], METRICS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(METRICS)}."
        errors["metrics"] = [f"Unknown metric '{unknown[0][:40]}'. {hint}"]
    if unit not in UNITS:
        errors["unit"] = [f"Unknown unit '{unit[:40]}'. Known: {', '.join(UNITS)}."]
    return errors


def _versions(variants: Sequence[Share], errors: dict[str, list[str]], *, by: Actor) -> list[ModelVersion]:
    """The versions of the variants; what is wrong with them goes into `errors`."""
    if not 2 <= len(variants) <= routes.MAX_ARMS:
        errors["variants"] = [f"Choose 2 to {routes.MAX_ARMS} versions to compare."]
    chosen: list[ModelVersion] = []
    for place, share in enumerate(variants[: routes.MAX_ARMS]):
        if not 1 <= share.weight <= MAX_WEIGHT:
            errors[f"variants.{place}.weight"] = [f"Use a whole number from 1 to {MAX_WEIGHT:,}."]
        try:
            version = resolve(by.workspace, share.version, field=f"variants.{place}.version")
        except Invalid as problem:
            errors.update(problem.errors)
        except (NotFound, NotReady) as problem:
            errors[f"variants.{place}.version"] = [problem.detail]
        else:
            if chosen and version.model_id != chosen[0].model_id:
                text = f"{version} is a version of another model than {chosen[0]}; a test compares versions of one."
                errors[f"variants.{place}.version"] = [text]
            elif version in chosen:
                errors[f"variants.{place}.version"] = [f"{version} is in the test already."]
            elif version.stage == "archived":
                errors[f"variants.{place}.version"] = [f"{version} is archived. Submit it to staging first."]
            chosen.append(version)
    return chosen


# --- deployments and the route


def _write_variants(test: ABTest, chosen: list[ModelVersion], shares: Sequence[Share], *, by: Actor) -> None:
    for place, (version, share) in enumerate(zip(chosen, shares, strict=True)):
        deployment, ours = _deploy(version, by=by)
        Variant.objects.create(
            test=test,
            key=ascii_lowercase[place],
            position=place,
            version=version,
            weight=share.weight,
            deployment=deployment,
            deployed_here=ours,
        )


def _deploy(version: ModelVersion, *, by: Actor) -> tuple[Deployment, bool]:
    """The version's deployment, and whether it had none before."""
    had = Deployment.objects.filter(version=version, target="local", wanted=True).exists()
    return deployments.deploy(version, by=by), not had


@transaction.atomic
def _deploy_again(test: ABTest, *, by: Actor) -> None:
    for variant in test.variants.select_related("version__model", "deployment"):
        if variant.deployment is None or not variant.deployment.wanted or variant.deployment.state == "failed":
            variant.deployment, ours = _deploy(variant.version, by=by)
            variant.deployed_here = variant.deployed_here or ours
            variant.save(update_fields=["deployment", "deployed_here"])


def _is_healthy(variant: Variant) -> bool:
    return variant.deployment is not None and variant.deployment.wanted and variant.deployment.is_healthy


def _why_not(variant: Variant) -> str:
    deployment = variant.deployment
    if deployment is not None and deployment.failure:
        return f"{variant.version} failed: {deployment.failure[:300].rstrip('.')}."
    return f"{variant.version} is still being loaded."


def _give_route_back(test: ABTest, *, by: Actor) -> None:
    """One arm first, so that the split ends even for a model without production, and nothing else is let go."""
    route = Route.objects.filter(model=test.model, owner=test.owner).first()
    if route is None:
        return
    production = test.model.in_production()
    steady = Deployment.objects.filter(version=production, wanted=True, state="healthy").first() if production else None
    control = test.variants.select_related("deployment__version").first()
    deployment = steady or (control.deployment if control else None)
    if deployment is not None and deployment.wanted:
        routes.set_arms(test.model, [routes.Arm(deployment)], owner=test.owner, by=by)
    routes.release(route, owner=test.owner, by=by)


def _free(variants: Sequence[Variant], test: ABTest, *, by: Actor) -> None:
    """Stop deployments that only this test had wanted: not on a route, not in production, in no other open test."""
    for variant in variants:
        deployment = variant.deployment
        if deployment is None or not variant.deployed_here or not deployment.wanted:
            continue
        elsewhere = Variant.objects.filter(deployment=deployment, test__state__in=_OPEN).exclude(test=test)
        on_route = RouteArm.objects.filter(deployment=deployment)
        if variant.version.stage != "production" and not elsewhere.exists() and not on_route.exists():
            deployments.stop(deployment, by=by)


def _split(test: ABTest) -> dict[str, dict[str, object]]:
    variants = test.variants.select_related("version__model")
    return {variant.key: {"version": str(variant.version), "weight": variant.weight} for variant in variants}
