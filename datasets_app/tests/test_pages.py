"""Data sets in the browser, without JavaScript: upload, correct, map, look, delete."""

import re
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasets_app.models import Dataset, DatasetVersion
from datasets_app.testing import ready_version
from datasets_app.tests.files import BAD_FILES, PAIRS, jsonl, one_bad_line
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.testing import Cast

NEW = "/datasets/new/"


def upload(client: Client, content: bytes, *, file: str = "rows.jsonl", url: str = NEW, **fields: Any) -> Any:
    return client.post(url, {"file": SimpleUploadedFile(file, content), "name": "pairs", "format": "auto", **fields})


def ticket(page: Any) -> str:
    found = re.search(r'name="upload" value="([^"]+)"', page.content.decode())
    assert found, "the file was not kept"
    return found[1]


def text(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode().replace("&quot;", '"').replace("&#x27;", "'"))


def test_the_empty_list_says_what_to_do(cast: Cast) -> None:
    assert NEW in text(cast.page("teammate").get("/datasets/"))
    assert NEW not in text(cast.page("viewer").get("/datasets/"))


def test_an_upload_leads_to_the_version_and_its_rows(cast: Cast) -> None:
    client = cast.page("teammate")
    response = upload(client, jsonl([*PAIRS, PAIRS[0], {"prompt": "<b>q</b>", "completion": ""}]), description="Four")
    version = DatasetVersion.objects.get()
    assert response.status_code == 302 and response["Location"] == f"/dataset-versions/{version.pk}/"
    assert "Waiting for a worker" in text(client.get(response["Location"]))
    run_to_end(Job.objects.get())
    page = text(client.get(response["Location"]))
    assert "One row repeats an earlier one" in page and "One answer is empty" in page
    assert "東京の天気は？" in page
    assert "&lt;b&gt;q&lt;/b&gt;" in text(client.get(f"{response['Location']}rows/"))
    listed = text(client.get("/datasets/"))
    assert "pairs" in listed and "Four" in listed
    assert "pairs:1" in text(client.get(f"/datasets/{version.dataset_id}/"))


@pytest.mark.parametrize("what", list(BAD_FILES))
def test_a_bad_file_is_refused_on_the_form(cast: Cast, what: str) -> None:
    name, content, field, words = BAD_FILES[what]
    response = upload(cast.page("teammate"), content, file=name)
    assert response.status_code == 400
    if field == "file":
        for word in words:
            assert word in text(response)
    else:  # the page asks what the columns are instead of showing how the API is told
        assert "Say below what each column is" in text(response)
    assert not Dataset.objects.exists() and not Job.objects.exists()


def test_unclear_columns_are_asked_about_and_the_file_is_kept(cast: Cast) -> None:
    client = cast.page("teammate")
    asked = upload(client, b"text;category\nWhere is it?;card_arrival\n", file="bank.csv")
    assert asked.status_code == 400
    page = text(asked)
    assert "Where is it?" in page and 'name="column_1"' in page
    assert '<option value="prompt" selected>' in page and '<option value="completion" selected>' in page
    fields = {"name": "pairs", "upload": ticket(asked), "column_0": "prompt", "column_1": "completion"}
    assert client.post(NEW, fields).status_code == 302
    assert DatasetVersion.objects.get().columns == {"prompt": "text", "completion": "category"}
    assert run_to_end(Job.objects.get()).state == "succeeded"


def test_columns_can_be_looked_at_first(cast: Cast) -> None:
    client = cast.page("teammate")
    looked = upload(client, jsonl([{"prompt": "q", "completion": "a", "input": "x"}]), look="1")
    assert looked.status_code == 200
    twice = {"column_0": "prompt", "column_1": "completion", "column_2": "prompt"}
    refused = client.post(NEW, {"name": "pairs", "upload": ticket(looked), **twice})
    assert refused.status_code == 400 and "'prompt' is the prompt already" in text(refused)


def test_a_wrong_name_does_not_cost_the_upload(cast: Cast) -> None:
    client = cast.page("teammate")
    refused = upload(client, jsonl(PAIRS), name="two words")
    assert refused.status_code == 400 and "not a usable name" in text(refused)
    assert client.post(NEW, {"name": "words", "upload": ticket(refused)}).status_code == 302
    again = client.post(NEW, {"name": "other", "upload": ticket(refused)})
    assert again.status_code == 409 and "Choose the file again" in text(again)


def test_bad_lines_are_left_out_with_one_tick(cast: Cast) -> None:
    client = cast.page("teammate")
    refused = upload(client, one_bad_line())
    assert "Line 5,001" in text(refused)
    assert client.post(NEW, {"name": "pairs", "upload": ticket(refused), "skip_bad_lines": "on"}).status_code == 302


def test_nobody_takes_over_somebody_elses_upload(cast: Cast) -> None:
    kept = ticket(upload(cast.page("teammate"), jsonl(PAIRS), name="two words"))
    for name in ("owner", "stranger"):
        assert cast.page(name).post(NEW, {"name": "mine", "upload": kept}).status_code == 409
    assert cast.page("teammate").post(NEW, {"name": "mine", "upload": "forged"}).status_code == 409
    assert not Dataset.objects.exists()


def test_no_file_is_said_at_the_field(cast: Cast) -> None:
    response = cast.page("teammate").post(NEW, {"name": "pairs"})
    assert response.status_code == 400 and "Choose a file" in text(response)


def test_a_failed_import_says_why_on_its_page(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_app.incoming.CHECKED_AT_ONCE", 1000)
    client = cast.page("teammate")
    response = upload(client, one_bad_line())
    run_to_end(Job.objects.get())
    page = text(client.get(response["Location"]))
    assert "It was not imported" in page and "Line 5,001" in page and "Upload again" in page


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"},
                        {"role": "assistant", "content": "Yo", "weight": 0}, {"role": "tool", "content": "42"},
                        {"role": "assistant", "content": "Done"}]}],
         ["Be brief", "not learned", "Tool", "Done"]),
        ([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}], ["Better answer", "Worse answer"]),
        ([{"prompt": "Hi", "completion": "Hello!", "label": False}], ["Bad answer"]),
        ([{"text": "Once upon a time" * 300}], ["Text", "All 4 800 characters"]),
    ],
)  # fmt: skip
def test_every_kind_of_row_is_shown(cast: Cast, rows: list[dict[str, Any]], words: list[str]) -> None:
    version = ready_version(cast.actor("teammate"), "rows", rows)
    page = text(cast.page("viewer").get(f"/dataset-versions/{version.pk}/"))
    for word in words:
        assert word in page


def test_a_data_set_is_renamed_and_deleted(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    client, url = cast.page("teammate"), f"/datasets/{version.dataset_id}/"
    assert client.post(url, {"name": "a b"}).status_code == 400
    assert client.post(url, {"name": "questions", "description": "All"}).status_code == 302
    assert "questions" in text(client.get(url))
    assert client.post(f"{url}delete/").status_code == 302
    assert not Dataset.objects.exists()


def test_a_second_version_is_uploaded_from_the_data_sets_page(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    url = f"/datasets/{version.dataset_id}/upload/"
    assert "pairs" in text(cast.page("teammate").get(url))
    assert upload(cast.page("teammate"), jsonl(PAIRS[:1]), url=url).status_code == 302
    assert list(Dataset.objects.get().versions.order_by("number").values_list("number", flat=True)) == [1, 2]


def test_viewers_may_not_upload_and_strangers_find_nothing(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    dataset = f"/datasets/{version.dataset_id}/"
    viewer, stranger = cast.page("viewer"), cast.page("stranger")
    for url in (NEW, f"{dataset}upload/"):
        assert viewer.get(url).status_code == upload(viewer, jsonl(PAIRS), url=url).status_code == 403
    for url in (dataset, f"{dataset}upload/", f"/dataset-versions/{version.pk}/"):
        assert stranger.get(url).status_code == 404
    assert stranger.post(f"{dataset}delete/").status_code == 404
    assert upload(stranger, jsonl(PAIRS), url=f"{dataset}upload/").status_code == 404
    viewer.post(f"{dataset}delete/")
    assert Dataset.objects.get().name == "pairs"
    assert "pairs" not in text(stranger.get("/datasets/"))


def test_the_list_takes_the_same_queries_however_long(cast: Cast) -> None:
    client = cast.page("viewer")
    counts = []
    for number in range(3):
        ready_version(cast.actor("teammate"), f"set-{number}", PAIRS)
        with CaptureQueriesContext(connection) as queries:
            assert f"set-{number}" in text(client.get("/datasets/"))
        counts.append(len(queries))
    assert len(set(counts[1:])) == 1
