"""The pages: what they show, what their buttons do, and who may press them."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from project.testing import Cast
from registry.actions import deployments, versions
from registry.models import Deployment, ModelVersion
from registry.tests.conftest import MakeVersion


def test_the_list_shows_what_is_in_production_and_how_good_it_is(
    cast: Cast, make_version: MakeVersion, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for name in ("alpha", "beta", "gamma"):
        version = make_version(name, scored={"exact_match": 0.875, "perplexity": 3.5})
        versions.promote(version, by=cast.actor("owner"))
    deployments.deploy(version, by=cast.actor("owner"))
    browser = cast.page("viewer")
    browser.get(reverse("models"))
    # session, user, memberships; count, models, production, deployments, newest, scores, imports
    with django_assert_num_queries(10):
        page = browser.get(reverse("models")).content.decode()
    assert page.count("87.5%") == 3
    assert "Waiting for an engine" in page or "Pending" in page
    assert "beta" in page
    assert "beta" not in browser.get(reverse("models"), {"search": "alpha"}).content.decode()


def test_a_models_page(
    cast: Cast, make_version: MakeVersion, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    base = make_version("base", origin="import", source="pip:x")
    for _ in range(4):
        version = make_version(base=base, scored={"exact_match": 0.5})
    versions.promote(version, by=cast.actor("owner"))
    deployments.deploy(version, by=cast.actor("owner"))
    browser = cast.page("operator")
    path = reverse("model", args=[version.model_id])
    browser.get(path)
    # session, user, memberships; model, production, deployments, newest; count, versions, deployments, scores;
    # route, arms, their deployments; history
    with django_assert_num_queries(15):
        page = browser.get(path).content.decode()
    assert "intents:4" in page
    assert "base:1" in page
    assert "promoted" in page
    assert f'action="{reverse("compare")}"' in page


def test_a_versions_page_says_why_it_cannot_be_promoted(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(facts={"parameters": 134515008, "family": "llama"}, config={"epochs": 3})
    page = cast.page("operator").get(version.get_absolute_url()).content.decode()
    assert "manage.py evaluate --model intents:1 --data DATASET" in page
    assert "disabled" in page
    assert "134.5 M" in page
    assert "epochs" in page
    assert version.artifact.manifest[0]["sha256"] in page


def test_the_buttons(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.5})
    operator = cast.page("operator")

    def press(verb: str, **data: str) -> str:
        answer = operator.post(reverse("model-version-step", args=[version.pk, verb]), data, follow=True)
        version.refresh_from_db()
        return str(answer.content.decode())

    assert "is in staging" in press("submit", comment="please")
    assert "is approved" in press("approve")
    assert "is in production" in press("promote", comment="good")
    assert "in production already" in press("promote")
    assert "is being deployed" in press("deploy")
    assert "Stop its deployment first" in press("archive")
    assert "careful with this" in press("notes", notes="careful with this")
    stop = operator.post(reverse("deployment-stop", args=[Deployment.objects.get().pk]), follow=True)
    assert "stops answering" in stop.content.decode()
    assert "is archived" in press("archive")
    assert version.stage == "archived"
    operator.post(reverse("model-version-step", args=[version.pk, "delete"]))
    assert not ModelVersion.objects.exists()
    assert operator.post(reverse("model-version-step", args=[version.pk, "explode"])).status_code == 404


def test_who_sees_which_buttons(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.5})
    promote = reverse("model-version-step", args=[version.pk, "promote"])
    for name, may in (("operator", True), ("teammate", False), ("viewer", False)):
        page = cast.page(name).get(version.get_absolute_url()).content.decode()
        assert (f'action="{promote}"' in page) is may, name
    refused = cast.page("teammate").post(promote, follow=True)
    assert "needs operator or more" in refused.content.decode()
    version.refresh_from_db()
    assert version.stage == "draft"


def test_describing_and_deleting_a_model(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version()
    operator = cast.page("operator")
    path = reverse("model", args=[version.model_id])
    form = {"name": "wishes", "description": "What people want", "tags": "a, b"}
    assert operator.post(path, form).headers["Location"] == path
    version.model.refresh_from_db()
    assert (version.model.name, version.model.tags) == ("wishes", ["a", "b"])
    assert operator.post(path, {**form, "name": "no good"}).status_code == 400
    assert operator.post(reverse("model-delete", args=[version.model_id])).headers["Location"] == reverse("models")


def test_a_base_in_use_is_not_deleted(cast: Cast, make_version: MakeVersion) -> None:
    base = make_version("base", origin="import")
    make_version(base=base)
    answer = cast.page("operator").post(reverse("model-delete", args=[base.model_id]), follow=True)
    assert "base:1 is the base of intents:1" in answer.content.decode()
    assert ModelVersion.objects.count() == 2
    assert cast.api("operator").delete("/api/v1/models/base/").status_code == 409


def test_the_comparison_page(cast: Cast, make_version: MakeVersion) -> None:
    one = make_version(scored={"exact_match": (0.4, 0.5, 0.6)}, config={"r": 8})
    two = make_version(scored={"exact_match": (0.85, 0.9, 0.95)}, config={"r": 16})
    browser = cast.page("viewer")
    page = browser.get(reverse("compare"), {"versions": [str(one.pk), str(two.pk)]}).content.decode()
    assert "+40.0 points" in page
    assert "better" in page
    assert "Configuration" in page
    assert "Choose at least two" in browser.get(reverse("compare"), {"versions": str(one.pk)}).content.decode()
    assert browser.get(reverse("compare")).status_code == 200
    unknown = browser.get(reverse("compare"), {"versions": "intnets,intents:1"})
    assert "Did you mean &#x27;intents&#x27;?" in unknown.content.decode()


def test_a_stranger_finds_no_page(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version()
    deployment = deployments.deploy(version, by=cast.actor("operator"))
    stranger = cast.page("stranger")
    for path in (reverse("model", args=[version.model_id]), version.get_absolute_url()):
        assert stranger.get(path).status_code == 404
    for path in (
        reverse("model", args=[version.model_id]),
        reverse("model-delete", args=[version.model_id]),
        reverse("model-version-step", args=[version.pk, "deploy"]),
        reverse("deployment-stop", args=[deployment.pk]),
    ):
        assert stranger.post(path).status_code == 404
    assert b"intents" not in stranger.get(reverse("models")).content


def test_the_admin(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.5})
    unscored = make_version()
    deployments.deploy(version, by=cast.actor("owner"))
    cast.owner.is_staff = cast.owner.is_superuser = True
    cast.owner.save()
    browser = cast.page("owner")
    for name in ("registeredmodel", "modelversion", "deployment", "engine", "route", "stagechange"):
        assert browser.get(reverse(f"admin:registry_{name}_changelist")).status_code == 200, name
    assert browser.get(reverse("admin:registry_modelversion_change", args=[version.pk])).status_code == 200
    answer = browser.post(
        reverse("admin:registry_modelversion_changelist"),
        {"action": "promote", "_selected_action": [str(version.pk), str(unscored.pk)]},
        follow=True,
    ).content.decode()
    assert "1 promoted" in answer
    assert "has not been evaluated" in answer


def test_commands(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version()
    with pytest.raises(CommandError, match=r"Run: manage\.py evaluate --model intents:1"):
        call_command("promote", "intents:1", workspace="acme")
    with pytest.raises(CommandError, match="Did you mean 'intents'"):
        call_command("deploy", "intnets", workspace="acme")
    version.scores.create(workspace=cast.workspace, data_digest="d" * 64, metric="f1", value=1.0, n=1)
    out = StringIO()
    call_command("promote", "intents:1", workspace="acme", stdout=out)
    call_command("deploy", "intents", workspace="acme", stdout=out)
    assert out.getvalue().splitlines() == ["intents:1 is in production.", "intents:1 is pending."]
