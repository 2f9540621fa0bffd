"""The API: the job file as JSON, evaluations, their rows and comparisons."""

import json
from typing import Any

import pytest
from django.test.utils import CaptureQueriesContext

from datasets_app.models import DatasetVersion
from project.jobs.models import Job
from project.testing import Cast
from registry.models import ModelVersion
from training.models import Evaluation, FineTune
from training.tests.conftest import MakeData, MakeEvaluation, conversations

URL = "/api/v1/jobs/"
EVALUATIONS = "/api/v1/evaluations/"


def test_a_job_file_starts_a_job(cast: Cast, job_file: dict[str, Any]) -> None:
    answer = cast.api("teammate").post(URL, {**job_file, "hyperparameters": {"epochs": 2}})
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["state"], body["recipe"], body["title"], body["params"]["epochs"]) == ("queued", "sft", "adder", 2)
    assert body["subject_kind"] == "finetune"
    listed = cast.api("viewer").get(URL).json()
    assert [job["id"] for job in listed["results"]] == [body["id"]]


def test_start_false_leaves_a_draft(cast: Cast, job_file: dict[str, Any]) -> None:
    client = cast.api("teammate")
    job = client.post(URL, {**job_file, "start": False}).json()
    assert job["state"] == "draft"
    assert client.post(f"{URL}{job['id']}/start/").json()["state"] == "queued"
    assert client.post(URL, {**job_file, "start": "no"}).json()["errors"] == {"start": ["must be true or false"]}


def test_the_same_key_starts_one_job(cast: Cast, job_file: dict[str, Any]) -> None:
    client = cast.api("teammate")
    answers = [client.post(URL, job_file, headers={"Idempotency-Key": "k1"}) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"hyperparameters": {"learning_rate": -1}}, "hyperparameters.learning_rate", "must be greater than 0"),
        ({"hyperparameters": {"batch_size": "many"}}, "hyperparameters.batch_size", "must be a whole number"),
        ({"hyperparameters": {"epochs": 10**12}}, "hyperparameters.epochs", "must be 1000 or less"),
        ({"hyperparameters": {"epoch": 1}}, "hyperparameters.epoch", "Did you mean 'epochs'?"),
        ({"recipe": "sfd"}, "recipe", "Did you mean 'sft'?"),
        ({"method": {"type": "lorax"}}, "method.type", "Did you mean 'lora'?"),
        ({"data": {}}, "data.dataset", "is required"),
        ({"started": True}, "started", "Unknown field"),
        ({"model": {"base_model": "0198c0de-0000-7000-8000-000000000000"}}, "model.base_model", "There is no model"),
    ],
)
def test_bad_input_names_the_field(
    cast: Cast, job_file: dict[str, Any], changes: dict[str, Any], field: str, words: str
) -> None:
    answer = cast.api("teammate").post(URL, {**job_file, **changes})
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert words in " ".join(answer.json()["errors"][field])
    assert not Job.objects.exists()
    assert not FineTune.objects.exists()


@pytest.mark.parametrize("body", ["[]", "3", '"text"', "null", "{", '{"a": NaN}', ""])
def test_a_body_that_is_no_job_file_is_refused(cast: Cast, body: str) -> None:
    answer = cast.api("teammate").generic("POST", URL, body, content_type="application/json")
    assert answer.status_code == 400, answer.content


def test_a_form_is_no_job_file(cast: Cast, job_file: dict[str, Any]) -> None:
    answer = cast.api("teammate").post(URL, {"name": "x"}, format="multipart")
    assert answer.status_code == 415


def test_who_may(cast: Cast, job_file: dict[str, Any], base: ModelVersion, data: DatasetVersion) -> None:
    assert cast.api("viewer").post(URL, job_file).status_code == 403
    assert cast.api("teammate", scopes=["read"]).post(URL, job_file).status_code == 403
    ids = {"name": "x", "model": {"base_model": str(base.pk)}, "data": {"dataset": str(data.pk)}}
    answer = cast.api("stranger").post(URL, ids)
    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {"model.base_model", "data.dataset"}


def test_an_evaluation_is_started(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    body = {"model_version": "tiny", "dataset_version": "sums", "metrics": ["exact_match", "f1"], "limit": 4}
    answer = cast.api("teammate").post(EVALUATIONS, body)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["version"], made["data_label"], made["state"], made["scores"]) == ("tiny:1", "sums:1", "queued", [])
    job = Job.objects.get(pk=made["job"])
    assert (job.params["limit"], job.params["metrics"]) == (4, ["exact_match", "f1"])
    assert set(job.inputs) == {"base", "data"}
    assert cast.api("viewer").get(f"{EVALUATIONS}{made['id']}/").json() == made


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model_version": "tinny"}, "model_version", "Did you mean 'tiny'?"),
        ({"model_version": None}, "model_version", "may not be null"),
        ({"dataset_version": "sum"}, "dataset_version", "Did you mean 'sums'?"),
        ({"metrics": ["exact"]}, "metrics", "Did you mean 'exact_match'?"),
        ({"metrics": []}, "metrics", "Name at least one"),
        ({"metrics": "f1"}, "metrics", "Expected a list"),
        ({"limit": 0}, "limit", "greater than or equal to 1"),
        ({"limit": "few"}, "limit", "valid integer"),
        ({"limit": 10**20}, "limit", "less than or equal"),
        ({"metric": ["f1"]}, "metric", "Did you mean 'metrics'?"),
    ],
)
def test_bad_evaluations_name_the_field(
    cast: Cast, base: ModelVersion, data: DatasetVersion, changes: dict[str, Any], field: str, words: str
) -> None:
    body = {"model_version": "tiny", "dataset_version": "sums", **changes}
    answer = cast.api("teammate").post(EVALUATIONS, body)
    assert answer.status_code == 400
    assert words in " ".join(answer.json()["errors"][field]), answer.json()
    assert not Evaluation.objects.exists()


def test_a_version_s_own_rows_are_called_that(
    cast: Cast, base: ModelVersion, data: DatasetVersion, make_data: MakeData
) -> None:
    ModelVersion.objects.filter(pk=base.pk).update(data_digest=data.digest)
    make_data("fresh", conversations(3, start=900))
    client = cast.api("teammate")
    learned = client.post(EVALUATIONS, {"model_version": "tiny", "dataset_version": "sums"}).json()
    assert learned["learned"] is True
    assert "learned these very rows" in learned["warnings"][0]
    fresh = client.post(EVALUATIONS, {"model_version": "tiny", "dataset_version": "fresh"}).json()
    assert (fresh["learned"], fresh["warnings"]) == (False, [])


def test_rows_are_paged_and_filtered(cast: Cast, make_evaluation: MakeEvaluation) -> None:
    evaluation = make_evaluation([("a", "a"), ("b", "x"), ("c", "c"), ("d", "y")])
    client = cast.api("viewer")
    url = f"{EVALUATIONS}{evaluation.pk}/rows/"
    page = client.get(url, {"limit": 2, "offset": 1}).json()
    assert (page["count"], [row["row"] for row in page["results"]]) == (4, [2, 3])
    assert page["results"][0] == {
        "row": 2,
        "prompt": "question 2",
        "answer": "x",
        "reference": "b",
        "finish_reason": "stop",
        "scores": {"exact_match": 0.0},
        "right": False,
    }
    assert [row["row"] for row in client.get(url, {"verdict": "right"}).json()["results"]] == [1, 3]
    assert [row["row"] for row in client.get(url, {"verdict": "wrong", "limit": 1}).json()["results"]] == [2]
    assert [row["row"] for row in client.get(url, {"search": "QUESTION 4"}).json()["results"]] == [4]
    assert client.get(url, {"verdict": "perhaps"}).status_code == 400
    assert client.get(url, {"limit": "x"}).status_code == 400


def test_rows_wait_for_the_end(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.api("teammate")
    made = client.post(EVALUATIONS, {"model_version": "tiny", "dataset_version": "sums"}).json()
    answer = client.get(f"{EVALUATIONS}{made['id']}/rows/")
    assert (answer.status_code, answer.json()["title"]) == (409, "Not ready")


def test_two_evaluations_side_by_side(cast: Cast, make_evaluation: MakeEvaluation) -> None:
    first = make_evaluation([(c, c if c < "e" else "?") for c in "abcdefgh"])
    second = make_evaluation([(c, c if c > "a" else "?") for c in "abcdefgh"])
    client = cast.api("viewer")
    body = client.get(f"{EVALUATIONS}compare/", {"evaluations": f"{first.pk},{second.pk}", "limit": 3}).json()
    assert body["counts"] == {"better": 4, "worse": 1, "same": 3}
    assert (body["rows"], body["measured_by"], len(body["results"])) == (8, "exact_match", 3)
    assert body["results"][0]["answers"] == ["a", "?"]
    assert body["results"][0]["change"] == "worse"
    change = body["differences"][0]
    assert change["change"] == pytest.approx(3 / 8)
    assert change["low"] < 3 / 8 < change["high"]
    assert change["verdict"] == "unclear"
    query = {"evaluations": f"{first.pk},{second.pk}", "change": "better"}
    better = client.get(f"{EVALUATIONS}compare/", query).json()
    assert [row["row"] for row in better["results"]] == [5, 6, 7, 8]


def test_a_clear_difference_is_called_so(cast: Cast, make_evaluation: MakeEvaluation) -> None:
    letters = [chr(ord("a") + n % 26) for n in range(60)]
    first = make_evaluation([(c, "?") for c in letters])
    second = make_evaluation([(c, c) for c in letters])
    body = cast.api("viewer").get(f"{EVALUATIONS}compare/", {"evaluations": f"{first.pk},{second.pk}"}).json()
    assert body["differences"][0]["verdict"] == "better"
    back = cast.api("viewer").get(f"{EVALUATIONS}compare/", {"evaluations": f"{second.pk},{first.pk}"}).json()
    assert back["differences"][0]["verdict"] == "worse"


def test_what_cannot_be_compared_says_why(cast: Cast, make_evaluation: MakeEvaluation, make_data: MakeData) -> None:
    first = make_evaluation([("a", "a")])
    other = make_evaluation([("a", "a")], data=make_data("others", conversations(3, start=50)))
    client = cast.api("viewer")

    def said(evaluations: str) -> tuple[int, str]:
        answer = client.get(f"{EVALUATIONS}compare/", {"evaluations": evaluations})
        return answer.status_code, json.dumps(answer.json())

    for names, status, words in (
        (f"{first.pk},{other.pk}", 400, "different rows"),
        (f"{first.pk}", 400, "two different evaluations"),
        (f"{first.pk},{first.pk}", 400, "two different evaluations"),
        ("", 400, "two different evaluations"),
        (f"{first.pk},tiny:1", 400, "by its id"),
        (f"{first.pk},0198c0de-0000-7000-8000-000000000000", 404, "No such evaluation"),
    ):
        assert said(names)[0] == status
        assert words in said(names)[1]


def test_a_stranger_sees_no_evaluation(cast: Cast, make_evaluation: MakeEvaluation) -> None:
    first, second = make_evaluation([("a", "a")]), make_evaluation([("a", "b")])
    client = cast.api("stranger")
    assert client.get(EVALUATIONS).json()["results"] == []
    for path in (f"{first.pk}/", f"{first.pk}/rows/", f"compare/?evaluations={first.pk},{second.pk}"):
        assert client.get(f"{EVALUATIONS}{path}").status_code == 404, path
    body = {"model_version": str(first.version_id), "dataset_version": str(first.data_version_id)}
    assert client.post(EVALUATIONS, body).status_code == 400


def test_a_list_costs_the_same_however_long_it_is(
    cast: Cast, make_evaluation: MakeEvaluation, django_assert_max_num_queries: Any
) -> None:
    client = cast.api("viewer")
    from django.db import connection

    make_evaluation([("a", "a")])
    client.get(EVALUATIONS)
    with CaptureQueriesContext(connection) as one:
        assert len(client.get(EVALUATIONS).json()["results"]) == 1
    for _ in range(4):
        make_evaluation([("a", "a")])
    with django_assert_max_num_queries(len(one)):
        assert len(client.get(EVALUATIONS, {"state": "succeeded"}).json()["results"]) == 5
    version = Evaluation.objects.first().version_id  # type: ignore[union-attr]
    assert len(client.get(EVALUATIONS, {"model_version": str(version)}).json()["results"]) == 5
    assert client.get(EVALUATIONS, {"model_version": "tiny"}).status_code == 400
