"""The API: shapes, steps, refusals in words, and another workspace's things that are not there."""

from urllib.parse import quote

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from project.testing import Cast
from registry.actions import deployments, versions
from registry.models import Deployment
from registry.tests.conftest import MakeVersion, score


def test_models_are_made_changed_listed_and_deleted(cast: Cast, make_version: MakeVersion) -> None:
    api = cast.api("operator")
    made = api.post("/api/v1/models/", {"name": "intents", "description": "What people want", "tags": ["b", "a", "a"]})
    assert made.status_code == 201
    assert made.json()["tags"] == ["a", "b"]
    assert made.json()["production"] is None
    version = make_version(scored={"exact_match": 0.9})
    versions.promote(version, by=cast.actor("operator"))
    model = api.get("/api/v1/models/", {"search": "inten"}).json()["results"][0]
    assert model["production"]["id"] == str(version.pk)
    assert model["newest"]["reference"] == "intents:1"
    assert model["versions"] == 1
    assert api.patch("/api/v1/models/intents/", {"name": "wishes"}).json()["name"] == "wishes"
    assert api.get(f"/api/v1/models/{model['id']}/").json()["name"] == "wishes"
    assert api.delete("/api/v1/models/wishes/").status_code == 204
    assert api.get("/api/v1/models/").json()["count"] == 0


@pytest.mark.parametrize(
    ("body", "field", "status"),
    [
        ({"name": "a b"}, "name", 400),
        ({"name": "intents"}, "name", 409),
        ({"name": "x", "descripton": ""}, "descripton", 400),
        ({"name": "x", "tags": ["a" * 41]}, "tags.0", 400),
        ({}, "name", 400),
    ],
)
def test_unusable_models(
    cast: Cast, make_version: MakeVersion, body: dict[str, object], field: str, status: int
) -> None:
    make_version()
    reply = cast.api("teammate").post("/api/v1/models/", body)
    assert reply.status_code == status
    assert field in reply.json()["errors"]


def test_an_unknown_model_suggests_the_nearest(cast: Cast, make_version: MakeVersion) -> None:
    make_version()
    api = cast.api("viewer")
    for path in ("models/intnets/", "model-versions/intnets:1/", "models/compare/?versions=intnets,intents:1"):
        reply = api.get(f"/api/v1/{path}")
        assert reply.status_code == 404, path
        assert "Did you mean 'intents'?" in reply.json()["detail"]


def test_a_version_by_id_and_by_reference(cast: Cast, make_version: MakeVersion) -> None:
    base = make_version("base", origin="import", source="pip:x")
    version = make_version(base=base, config={"method": {"r": 8}}, facts={"parameters": 5})
    api = cast.api("viewer")
    found = api.get(f"/api/v1/model-versions/{version.pk}/").json()
    assert found == api.get("/api/v1/model-versions/intents:1/").json()
    assert (found["model"], found["model_name"], found["kind"]) == (str(version.model_id), "intents", "adapter")
    assert found["base"]["reference"] == "base:1"
    assert found["config"] == {"method": {"r": 8}}
    assert found["size"] == sum(file["size"] for file in found["files"])
    assert all(len(file["sha256"]) == 64 for file in found["files"])
    assert (found["scores"], found["deployment"]) == ([], None)
    listed = api.get("/api/v1/models/intents/versions/").json()["results"]
    assert [item["reference"] for item in listed] == ["intents:1"]
    assert api.get("/api/v1/model-versions/", {"kind": "full"}).json()["results"][0]["reference"] == "base:1"
    relatives = api.get("/api/v1/model-versions/intents:1/lineage/").json()
    assert [(r["relation"], r["label"]) for r in relatives["made_from"]] == [("base of", "base:1")]
    below = api.get("/api/v1/model-versions/base:1/lineage/").json()["led_to"][0]
    assert (below["label"], below["url"]) == ("intents:1", f"/model-versions/{version.pk}/")


def test_the_steps_of_a_version(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version()
    api, teammate = cast.api("operator"), cast.api("teammate")
    path = f"/api/v1/model-versions/{version.pk}"
    refused = api.post(f"{path}/promote/")
    assert refused.status_code == 409
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert "manage.py evaluate --model intents:1 --data DATASET" in refused.json()["detail"]
    score(version, cast.actor("owner"), exact_match=(0.8, 0.9, 0.95))
    assert teammate.post(f"{path}/submit/", {"comment": "please"}).json()["stage"] == "staging"
    assert teammate.post(f"{path}/promote/").status_code == 403
    assert api.post(f"{path}/approve/").status_code == 200
    assert api.post(f"{path}/promote/", {"why": "x"}).status_code == 400
    assert api.post(f"{path}/promote/", {"comment": "good"}).json()["stage"] == "production"
    deployed = api.post(f"{path}/deploy/")
    assert deployed.status_code == 201
    assert (deployed.json()["state"], deployed.json()["model_version"]) == ("pending", str(version.pk))
    assert api.post(f"{path}/deploy/").json()["id"] == deployed.json()["id"]
    assert api.get(f"{path}/scores/").json()["results"][0]["low"] == 0.8
    assert teammate.patch(f"{path}/", {"notes": "careful"}).json()["notes"] == "careful"
    assert teammate.patch(f"{path}/", {"stage": "draft"}).status_code == 400
    history = api.get("/api/v1/models/intents/history/").json()["results"]
    assert [step["action"] for step in history] == ["promoted", "approved", "submitted", "registered"]
    assert history[0]["gates"] == [{"gate": "evaluated", "passed": True, "said": history[0]["gates"][0]["said"]}]
    assert api.delete(f"{path}/").status_code == 409
    assert api.post(f"{path}/archive/").json()["detail"].endswith("Stop its deployment first.")


def test_deployments(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.5})
    versions.promote(version, by=cast.actor("operator"))
    deployment = deployments.deploy(version, by=cast.actor("operator"))
    api = cast.api("operator")
    assert api.get("/api/v1/deployments/").json()["results"][0]["reference"] == "intents:1"
    health = api.get(f"/api/v1/deployments/{deployment.pk}/health/").json()
    assert (health["healthy"], health["state"], health["engine"]) == (False, "pending", None)
    route = api.get("/api/v1/models/intents/route/").json()
    assert [(arm["key"], arm["deployment"]["id"]) for arm in route["arms"]] == [("main", str(deployment.pk))]
    assert cast.api("teammate").post(f"/api/v1/deployments/{deployment.pk}/stop/").status_code == 403
    assert api.post(f"/api/v1/deployments/{deployment.pk}/stop/").json()["state"] == "stopped"
    assert api.get("/api/v1/deployments/", {"wanted": "true"}).json()["count"] == 0
    assert api.get("/api/v1/model-versions/intents:1/").json()["deployment"] is None


def test_what_was_in_production_then(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.5})
    before = timezone.now()
    versions.promote(version, by=cast.actor("operator"))
    api = cast.api("viewer")
    now = quote(timezone.now().isoformat())
    answer = api.get(f"/api/v1/models/intents/at/?time={now}").json()
    assert (answer["label"], answer["version"]["reference"]) == ("intents:1", "intents:1")
    assert answer["by"] == cast.actor("operator").label
    nothing = api.get(f"/api/v1/models/intents/at/?time={before.isoformat()}").json()  # '+' not escaped
    assert (nothing["label"], nothing["version"]) == (None, None)
    for wrong in ("", "?time=", "?time=yesterday", "?time=2026-13-40T00:00:00Z"):
        assert "time" in api.get(f"/api/v1/models/intents/at/{wrong}").json()["errors"]


def test_a_stranger_finds_nothing(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version(scored={"f1": 0.5})
    deployment = deployments.deploy(version, by=cast.actor("operator"))
    api = cast.api("stranger")
    one, two = f"/api/v1/models/{version.model_id}", f"/api/v1/model-versions/{version.pk}"
    three = f"/api/v1/deployments/{deployment.pk}"
    for path in (
        *(f"{one}/", f"{one}/versions/", f"{one}/history/", f"{one}/route/", f"{one}/at/?time=2026-01-01T00:00:00Z"),
        *(
            f"{two}/",
            f"{two}/scores/",
            f"{two}/lineage/",
            "/api/v1/models/intents/",
            "/api/v1/model-versions/intents:1/",
        ),
        *(f"{three}/", f"{three}/health/", f"/api/v1/models/compare/?versions={version.pk},{version.pk}"),
    ):
        assert api.get(path).status_code == 404, path
    for path in ("promote", "submit", "approve", "archive", "deploy"):
        assert api.post(f"{two}/{path}/").status_code == 404, path
    assert api.post(f"{three}/stop/").status_code == 404
    assert api.delete(f"{one}/").status_code == 404
    for path in ("models", "model-versions", "deployments"):
        assert api.get(f"/api/v1/{path}/").json()["count"] == 0
    assert Deployment.objects.get().wanted


def test_lists_do_not_ask_row_by_row(
    cast: Cast, make_version: MakeVersion, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    base = make_version("base", origin="import")
    for name in ("a1", "b1", "c1", "d1"):
        for _ in range(2):
            version = make_version(name, base=base, scored={"f1": 0.5})
        deployments.deploy(version, by=cast.actor("operator"))
    api = cast.api("viewer")
    api.get("/api/v1/models/")  # notes that the token was used
    with django_assert_num_queries(6):  # token, count, models, production, its deployments, newest
        assert len(api.get("/api/v1/models/").json()["results"]) == 5
    with django_assert_num_queries(3):  # token, count, versions
        assert len(api.get("/api/v1/model-versions/").json()["results"]) == 9
    with django_assert_num_queries(3):  # token, count, deployments
        assert len(api.get("/api/v1/deployments/").json()["results"]) == 4


def test_the_schema_describes_all_of_it(cast: Cast) -> None:
    import yaml

    schema = yaml.safe_load(cast.page("owner").get("/api/schema/").content)
    paths = set(schema["paths"])
    assert {
        "/api/v1/models/import/",
        "/api/v1/models/compare/",
        "/api/v1/models/{id}/at/",
        "/api/v1/model-versions/{id}/promote/",
        "/api/v1/deployments/{id}/health/",
    } <= paths
