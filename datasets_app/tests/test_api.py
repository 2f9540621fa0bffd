"""Data sets over the API: upload, import, read back, and every way it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from pytest_django import DjangoAssertNumQueries

from datasets_app.models import Dataset, DatasetVersion
from datasets_app.testing import ready_version
from datasets_app.tests.files import BAD_FILES, PAIRS, jsonl, one_bad_line
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.kernel.models import Artifact, AuditEntry
from project.testing import Cast

URL = "/api/v1/datasets/"


def upload(
    api: Any, content: bytes, *, file: str = "rows.jsonl", url: str = URL, headers: Any = None, **fields: Any
) -> Any:
    body = {"file": SimpleUploadedFile(file, content), **({"name": "pairs"} if url == URL else {}), **fields}
    return api.post(url, body, format="multipart", headers=headers)


def uploaded_files() -> list[Path]:
    """What lies in the uploads folder or the store of uploads."""
    roots = (Path(settings.UPLOADS_PATH), *Path(settings.MODEL_STORAGE_PATH).glob("*/upload"))
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


def test_an_upload_becomes_a_ready_version_with_rows_and_report(cast: Cast) -> None:
    api = cast.api("teammate")
    made = upload(api, jsonl([{**pair, "source": "test"} for pair in PAIRS]), description="Four pairs")
    assert made.status_code == 201, made.json()
    body = made.json()
    assert (body["name"], body["description"], body["versions"], body["ready"]) == ("pairs", "Four pairs", 1, None)
    assert body["newest"]["state"] == body["version"]["state"] == "importing"
    assert api.get(f"/api/v1/dataset-versions/{body['version']['id']}/rows/").status_code == 409

    job = run_to_end(Job.objects.get(pk=body["job"]))
    assert job.state == "succeeded", job.failure_message
    assert job.result["dataset_version"] == body["version"]["id"]
    version = api.get(f"/api/v1/dataset-versions/{body['version']['id']}/").json()
    assert (version["state"], version["rows"], version["row_kind"]) == ("ready", 4, "completion")
    assert (version["reference"], version["source_name"], version["format"]) == ("pairs:1", "rows.jsonl", "jsonl")
    assert version["summary"]["rows"] == 4
    assert version["digest"] == "0e0e957f2d228a7aedcd68fe38dc32e0c5e65467730d2b847391b3228ee3b0c3"
    page = api.get("/api/v1/dataset-versions/pairs/rows/?offset=1&limit=2").json()
    assert page["count"] == 4
    assert [row["number"] for row in page["results"]] == [2, 3]
    assert page["results"][1]["row"]["prompt"] == "東京の天気は？"
    assert page["results"][0]["meta"] == {"source": "test"}
    assert page["next"].endswith("offset=3") and page["previous"].endswith("offset=0")
    report = api.get("/api/v1/dataset-versions/pairs:1/report/").json()
    assert report["figures"]["lengths"]["rows"]["least"] > 0
    assert api.get(f"{URL}pairs/").json()["ready"]["rows"] == 4
    verbs = set(AuditEntry.objects.filter(object_id__in=[body["id"], version["id"]]).values_list("verb", flat=True))
    assert verbs == {"dataset.created", "dataset.version_added", "dataset.version_ready"}


@pytest.mark.parametrize("what", list(BAD_FILES))
def test_a_bad_file_is_a_4xx_that_names_the_line_or_field_and_leaves_nothing(cast: Cast, what: str) -> None:
    name, content, field, words = BAD_FILES[what]
    before = uploaded_files()
    response = upload(cast.api("teammate"), content, file=name)
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert list(response.json()["errors"]) == [field]
    for word in words:
        assert word in response.json()["errors"][field][0]
    assert not Dataset.objects.exists() and not Job.objects.exists() and not Artifact.objects.exists()
    assert uploaded_files() == before


def test_what_the_first_look_lets_pass_fails_in_the_job_with_the_same_words(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets_app.incoming.CHECKED_AT_ONCE", 1000)
    made = upload(cast.api("teammate"), one_bad_line()).json()
    job = run_to_end(Job.objects.get(pk=made["job"]))
    assert (job.state, job.failure_class, job.failure_field) == ("failed", "user_error", "file")
    version = cast.api("viewer").get("/api/v1/dataset-versions/pairs:1/").json()
    assert version["state"] == "failed"
    assert "Line 5,001" in version["failure"] and "skip_bad_lines" in version["failure"]
    refused = cast.api("viewer").get("/api/v1/dataset-versions/pairs:1/report/")
    assert refused.status_code == 409 and "Line 5,001" in refused.json()["detail"]


def test_bad_lines_are_skipped_and_reported_when_asked(cast: Cast) -> None:
    made = upload(cast.api("teammate"), one_bad_line(), skip_bad_lines="true").json()
    assert run_to_end(Job.objects.get(pk=made["job"])).state == "succeeded"
    report = cast.api("viewer").get("/api/v1/dataset-versions/pairs/report/").json()
    assert (report["summary"]["rows"], report["summary"]["bad_lines"]) == (9999, 1)
    assert report["bad_lines"][0]["line"] == 5001


def test_columns_are_mapped_by_the_user(cast: Cast) -> None:
    columns = json.dumps({"prompt": "question", "completion": "label"})
    content = "\ufeffquestion;label;id\nWhere?;here;1\n".encode()
    made = upload(cast.api("teammate"), content, file="excel.csv", columns=columns).json()
    assert run_to_end(Job.objects.get(pk=made["job"])).state == "succeeded"
    row = cast.api("viewer").get("/api/v1/dataset-versions/pairs/rows/").json()["results"][0]
    assert row["row"] == {"kind": "completion", "prompt": "Where?", "completion": "here"}
    assert row["meta"] == {"id": "1"}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": "no spaces"}, "name", "not a usable name"),
        ({"name": ""}, "name", "blank"),
        ({"columns": "{"}, "columns", "not JSON"),
        ({"columns": '["a"]'}, "columns", "object of texts"),
        ({"columns": '{"prompt": 3}'}, "columns", "object of texts"),
        ({"columns": '{"promt": "prompt"}'}, "columns", "Did you mean 'prompt'?"),
        ({"columns": '{"prompt": "\\u0000"}'}, "columns", "printable"),
        ({"format": "jsonlines"}, "format", "Did you mean 'jsonl'?"),
        ({"skip_bad_lines": "maybe"}, "skip_bad_lines", "boolean"),
        ({"descripton": "x"}, "descripton", "Did you mean 'description'?"),
        ({"description": "x" * 5001}, "description", "5000"),
    ],
)
def test_wrong_fields_are_named(cast: Cast, fields: dict[str, Any], field: str, words: str) -> None:
    response = upload(cast.api("teammate"), jsonl(PAIRS), **fields)
    assert response.status_code == 400
    assert words in response.json()["errors"][field][0]
    assert not Dataset.objects.exists()


@pytest.mark.parametrize("body", ["5", "null", "true", '"steps"', '["steps"]'])
def test_a_body_that_is_no_object_is_a_400(cast: Cast, body: str) -> None:
    ready_version(cast.actor("teammate"), "pairs", PAIRS)
    reply = cast.api("teammate").post(f"{URL}pairs/versions/", body, content_type="application/json")
    assert reply.status_code == 400, reply.content
    assert reply["Content-Type"] == "application/problem+json" and reply.json()["errors"]


def test_a_file_is_needed(cast: Cast) -> None:
    response = cast.api("teammate").post(URL, {"name": "pairs"})
    assert (response.status_code, list(response.json()["errors"])) == (400, ["file"])


def test_a_file_over_the_cap_is_413(cast: Cast, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 100
    response = upload(cast.api("teammate"), jsonl(PAIRS))
    assert (response.status_code, list(response.json()["errors"])) == (413, ["file"])


def test_a_taken_name_is_a_conflict_and_a_new_version_is_the_way(cast: Cast) -> None:
    api = cast.api("teammate")
    ready_version(cast.actor("teammate"), "pairs", PAIRS)
    assert upload(api, jsonl(PAIRS)).status_code == 409
    second = upload(api, jsonl(PAIRS[:2]), url=f"{URL}pairs/versions/")
    assert (second.status_code, second.json()["version"]["number"]) == (201, 2)
    run_to_end(Job.objects.get(pk=second.json()["job"]))
    listed = api.get(f"{URL}pairs/versions/").json()["results"]
    assert [(version["number"], version["rows"]) for version in listed] == [(2, 2), (1, 4)]
    assert api.get("/api/v1/dataset-versions/pairs/").json()["number"] == 2


def test_an_idempotency_key_uploads_once(cast: Cast) -> None:
    api = cast.api("teammate")
    first, again = (upload(api, jsonl(PAIRS), headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json() == again.json()
    assert Dataset.objects.count() == Job.objects.count() == 1


def test_the_uploaded_file_is_gone_after_the_import(transactional_db: None, cast: Cast) -> None:
    before = uploaded_files()
    made = upload(cast.api("teammate"), jsonl(PAIRS)).json()
    assert len(uploaded_files()) == len(before) + 1
    run_to_end(Job.objects.get(pk=made["job"]))
    assert uploaded_files() == before
    assert DatasetVersion.objects.get().upload is None


def test_a_cancelled_import_says_so_and_cannot_be_retried(cast: Cast) -> None:
    made = upload(cast.api("teammate"), jsonl(PAIRS)).json()
    jobs.cancel(Job.objects.get(pk=made["job"]), by=cast.actor("teammate"))
    assert DatasetVersion.objects.get().failure == "The import was cancelled."
    assert cast.api("teammate").delete(f"{URL}pairs/").status_code == 204


def test_rename_describe_and_delete(transactional_db: None, cast: Cast) -> None:
    api = cast.api("teammate")
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    changed = api.patch(f"{URL}pairs/", {"name": "questions", "description": "All of them"})
    assert (changed.json()["name"], changed.json()["description"]) == ("questions", "All of them")
    assert api.get(f"{URL}pairs/").status_code == 404
    ready_version(cast.actor("teammate"), "other", PAIRS)
    assert api.patch(f"{URL}questions/", {"name": "other"}).status_code == 409
    assert api.delete(f"{URL}questions/").status_code == 204
    assert not DatasetVersion.objects.filter(pk=version.pk).exists()
    assert not Artifact.objects.filter(pk=version.artifact_id).exists()


def test_a_data_set_that_is_being_imported_is_not_deleted(cast: Cast) -> None:
    upload(cast.api("teammate"), jsonl(PAIRS))
    refused = cast.api("teammate").delete(f"{URL}pairs/")
    assert (refused.status_code, Dataset.objects.count()) == (409, 1)
    assert "Cancel its job first" in refused.json()["detail"]


def test_viewers_read_and_strangers_see_nothing(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    viewer, stranger = cast.api("viewer"), cast.api("stranger")
    paths = [URL + "pairs/", f"{URL}{version.dataset_id}/", f"{URL}pairs/versions/"]
    paths += [f"/api/v1/dataset-versions/{version.pk}/{part}" for part in ("", "rows/", "report/")]
    for path in paths:
        assert viewer.get(path).status_code == 200, path
        assert stranger.get(path).status_code == 404, path
    assert upload(viewer, jsonl(PAIRS)).status_code == 403
    assert upload(viewer, jsonl(PAIRS), url=f"{URL}pairs/versions/").status_code == 403
    assert viewer.patch(f"{URL}pairs/", {"name": "x"}).status_code == 403
    assert viewer.delete(f"{URL}pairs/").status_code == 403
    assert upload(stranger, jsonl(PAIRS), url=f"{URL}{version.dataset_id}/versions/").status_code == 404
    assert stranger.patch(f"{URL}{version.dataset_id}/", {"name": "x"}).status_code == 404
    assert stranger.delete(f"{URL}{version.dataset_id}/").status_code == 404
    assert stranger.get(URL).json()["results"] == []
    assert stranger.get("/api/v1/dataset-versions/").json()["results"] == []


def test_a_read_only_token_cannot_upload(cast: Cast) -> None:
    assert upload(cast.api("owner", scopes=["read"]), jsonl(PAIRS)).status_code == 403


@pytest.mark.parametrize(
    ("reference", "status", "words"),
    [
        ("paris", 404, "Did you mean 'pairs'?"),
        ("pairs:9", 404, "Its newest is pairs:1"),
        ("pairs@staging", 400, "no stages"),
        ("%20", 400, "not a reference"),
        ("00000000-0000-0000-0000-000000000000", 404, "no data set or version"),
    ],
)
def test_a_wrong_reference_is_explained(cast: Cast, reference: str, status: int, words: str) -> None:
    ready_version(cast.actor("teammate"), "pairs", PAIRS)
    response = cast.api("viewer").get(f"/api/v1/dataset-versions/{reference}/")
    assert response.status_code == status
    assert words in response.json()["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "offset=-1", "offset=x"])
def test_wrong_pages_of_rows_are_named(cast: Cast, query: str) -> None:
    ready_version(cast.actor("teammate"), "pairs", PAIRS)
    assert cast.api("viewer").get(f"/api/v1/dataset-versions/pairs/rows/?{query}").status_code == 400


def test_lists_are_searched_and_take_the_same_queries_however_long(
    cast: Cast, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(3):
        ready_version(cast.actor("teammate"), f"set-{number}", PAIRS)
    api = cast.api("viewer")
    assert [row["name"] for row in api.get(f"{URL}?search=set-1").json()["results"]] == ["set-1"]
    with django_assert_num_queries(5):  # token, count, data sets, their newest ready and newest versions
        assert len(api.get(URL).json()["results"]) == 3
