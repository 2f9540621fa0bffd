"""From an uploaded file to a served, rated and A/B-tested model: on files alone, and on PostgreSQL with Redis."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from project.tests.product import Product, User, wait_for

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ROWS = [
    {"messages": [{"role": "user", "content": f"what is {n} plus one"}, {"role": "assistant", "content": f"{n + 1}"}]}
    for n in range(40)
]
JOB = {
    "name": "adder",
    "model": {"base_model": "tiny", "name": "adder"},
    "data": {"dataset": "sums", "validation_split": 0.1, "seed": 7},
    "recipe": "sft",
    "method": {"type": "lora", "r": 4, "alpha": 8},
    "hyperparameters": {"learning_rate": 1e-3, "batch_size": 8, "epochs": 2, "max_seq_length": 128},
}


@pytest.fixture(scope="module", params=["embedded", "services"])
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    env = {}
    if request.param == "services":
        env = {
            "DATABASE_URL": request.getfixturevalue("postgres_url"),
            "REDIS_URL": request.getfixturevalue("redis_url"),
        }
    with Product(tmp_path_factory.mktemp(request.param), env).running() as running:
        yield running


@pytest.fixture(scope="module")
def owner(product: Product) -> User:
    return product.api(product.token())


@pytest.fixture(scope="module")
def trained(owner: User) -> dict[str, Any]:
    """Version 1 of the model `adder`, and everything it was made from."""
    base = owner.finish(owner.post("/api/v1/models/import/", {"source": "dir:tiny", "name": "tiny"})["job"])
    data = owner.upload("sums", ROWS)
    job = owner.finish(owner.post("/api/v1/jobs/", JOB)["id"])
    version = owner.get(f"/api/v1/model-versions/{job['result']['model_version']}/")
    return {"base": base["result"]["model_version"], "data": data, "job": job, "version": version}


@pytest.fixture(scope="module")
def served(owner: User, trained: dict[str, Any]) -> dict[str, Any]:
    """The version evaluated, promoted and answering."""
    body = {"model_version": trained["version"]["id"], "dataset_version": trained["data"]["id"], "limit": 8}
    evaluation = owner.post("/api/v1/evaluations/", {**body, "metrics": ["exact_match", "f1", "perplexity", "latency"]})
    owner.finish(evaluation["job"])
    owner.post(f"/api/v1/model-versions/{trained['version']['id']}/promote/")
    deployment = owner.post(f"/api/v1/model-versions/{trained['version']['id']}/deploy/")
    owner.healthy(deployment["id"])
    return {**trained, "evaluation": owner.get(f"/api/v1/evaluations/{evaluation['id']}/"), "deployment": deployment}


def test_the_job_left_a_complete_record(owner: User, trained: dict[str, Any]) -> None:
    events = owner.get(f"/api/v1/jobs/{trained['job']['id']}/events/", after=0, limit=500)["results"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert "done" in {event["type"] for event in events}
    assert "succeeded" in str(events[-1])
    chart = owner.get(f"/api/v1/jobs/{trained['job']['id']}/metrics/", keys="loss")
    assert "loss" in str(chart)


def test_every_metric_has_an_interval(served: dict[str, Any]) -> None:
    scores = {score["metric"]: score for score in served["evaluation"]["scores"]}
    assert {"exact_match", "f1", "perplexity"} <= set(scores)
    assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())


def test_the_openai_package_talks_to_the_gateway(product: Product, owner: User, served: dict[str, Any]) -> None:
    client = openai.OpenAI(base_url=f"{product.url}/v1", api_key=owner.token, max_retries=0)
    assert "adder" in {model.id for model in client.models.list()}
    question = [{"role": "user", "content": "what is 3 plus one"}]
    whole = client.chat.completions.create(model="adder", messages=question, temperature=0, max_tokens=8)  # type: ignore[call-overload]
    assert whole.id.startswith("chatcmpl-")
    assert whole.usage.completion_tokens > 0
    pieces = list(
        client.chat.completions.create(model="adder", messages=question, temperature=0, max_tokens=8, stream=True)  # type: ignore[call-overload]
    )
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert streamed == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="adder"):
        client.chat.completions.create(model="addder", messages=question)  # type: ignore[call-overload]


def test_feedback_is_tied_to_its_answer(product: Product, owner: User, served: dict[str, Any]) -> None:
    client = openai.OpenAI(base_url=f"{product.url}/v1", api_key=owner.token, max_retries=0)
    question = [{"role": "user", "content": "what is 5 plus one"}]
    answer = client.chat.completions.create(model="adder", messages=question, max_tokens=4, user="u1")  # type: ignore[call-overload]
    given = owner.post("/api/v1/feedback/", {"response_id": answer.id, "rating": 4, "user_id": "u1"})
    assert given["rating"] == 4
    refused = owner.http.post("/api/v1/feedback/", json={"response_id": "chatcmpl-nobody", "rating": 4})
    assert refused.status_code == 404


def test_an_ab_test_splits_users_and_counts_them(product: Product, owner: User, served: dict[str, Any]) -> None:
    second = owner.finish(owner.post("/api/v1/jobs/", {**JOB, "name": "adder again"})["id"])["result"]["model_version"]
    versions = [served["version"]["id"], second]
    body = {
        "name": "first against second",
        "variants": [{"version": version, "weight": 50} for version in versions],
        "metrics": ["rating"],
    }
    test = owner.post("/api/v1/ab-tests/", body)

    def started() -> bool:
        response = owner.http.post(f"/api/v1/ab-tests/{test['id']}/start/")
        assert response.status_code in (200, 409), response.text
        return response.status_code == 200

    wait_for(started, 120, "both variants to be healthy")
    question = [{"role": "user", "content": "what is 1 plus one"}]
    seen: dict[str, set[str]] = {}
    for turn in range(2):
        for user in range(12):
            headers = {"Authorization": f"Bearer {owner.token}"}
            answer = httpx.post(
                f"{product.url}/v1/chat/completions",
                headers=headers,
                json={"model": "adder", "messages": question, "max_tokens": 1, "user": f"user-{user}"},
                timeout=60,
            )
            if answer.status_code == 200:
                record = owner.get(f"/api/v1/answers/{answer.json()['id']}/")
                seen.setdefault(f"user-{user}", set()).add(record["arm"])
                if turn == 0:
                    owner.post(
                        "/api/v1/feedback/",
                        {"response_id": answer.json()["id"], "rating": 1 + user % 5, "user_id": f"user-{user}"},
                    )
    assert len(seen) == 12
    assert all(len(arms) == 1 for arms in seen.values()), "a user met two variants"
    results = owner.get(f"/api/v1/ab-tests/{test['id']}/results/")
    assert sum(arm["units"] for arm in results["arms"]) == 12
    assert sum(arm["answers"] for arm in results["arms"]) == 24
    assert owner.post(f"/api/v1/ab-tests/{test['id']}/stop/")["state"] == "stopped"


def test_a_revoked_token_stops_at_the_gateway(product: Product, owner: User, served: dict[str, Any]) -> None:
    made = owner.post("/api/v1/tokens/", {"name": "short-lived", "role": "viewer"})
    headers = {"Authorization": f"Bearer {made['secret']}"}

    def status() -> int:
        return httpx.get(f"{product.url}/v1/models", headers=headers).status_code

    assert status() == 200
    owner.http.delete(f"/api/v1/tokens/{made['id']}/")
    wait_for(lambda: status() == 401, 5, "the gateway to refuse the revoked token")


def test_a_running_job_can_be_cancelled(owner: User, trained: dict[str, Any]) -> None:
    long = {**JOB, "name": "long", "hyperparameters": {**JOB["hyperparameters"], "epochs": 500}}  # type: ignore[dict-item]
    job = owner.post("/api/v1/jobs/", long)["id"]
    wait_for(lambda: owner.get(f"/api/v1/jobs/{job}/")["step"] > 0, 60, "the first step")
    owner.post(f"/api/v1/jobs/{job}/cancel/")
    owner.finish(job, "cancelled", 60)


def test_nothing_of_it_is_visible_from_another_workspace(product: Product, owner: User, served: dict[str, Any]) -> None:
    product.manage("create_workspace", "Elsewhere", "--owner", "operator")
    secret = product.manage("create_token", "--workspace", "elsewhere", "--role", "owner")
    stranger = product.api(secret)
    for path in (
        f"/api/v1/model-versions/{served['version']['id']}/",
        f"/api/v1/dataset-versions/{served['data']['id']}/",
        f"/api/v1/jobs/{served['job']['id']}/",
        f"/api/v1/deployments/{served['deployment']['id']}/",
        f"/api/v1/evaluations/{served['evaluation']['id']}/",
    ):
        assert stranger.http.get(path).status_code == 404, path
    assert stranger.http.get("/v1/models/adder").status_code == 404
