"""Uploads in chunks, the evidence that is shown, and rows from elsewhere through the page."""

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from datasets_app.models import Dataset, DatasetVersion
from datasets_app.tests.files import PAIRS, jsonl, parquet, write
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.testing import Cast

NEW = "/datasets/new/"
BEGIN = "/datasets/uploads/"
CHUNK = "/datasets/uploads/chunk/"


def text(response: Any) -> str:
    found = response.content.decode().replace("&quot;", '"').replace("&#x27;", "'")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", found))


def begin(client: Client, data: bytes, name: str = "my rows.jsonl") -> str:
    begun = client.post(BEGIN, {"name": name, "size": len(data)})
    assert begun.status_code == 200, begun.json()
    return str(begun.json()["upload"])


def send(client: Client, ticket: str, offset: int, data: bytes) -> Any:
    headers = {"X-Upload": ticket, "X-Offset": str(offset)}
    return client.post(CHUNK, data, content_type="application/octet-stream", headers=headers)


def whole(client: Client, data: bytes, name: str = "my rows.jsonl", size: int = 300) -> str:
    ticket = begin(client, data, name)
    for start in range(0, len(data), size):
        assert send(client, ticket, start, data[start : start + size]).status_code == 200
    return ticket


def folders() -> list[Path]:
    return list(Path(settings.UPLOADS_PATH).iterdir())


def test_a_file_in_chunks_is_looked_at_and_imported(cast: Cast) -> None:
    client, data = cast.page("teammate"), jsonl(PAIRS * 5)
    ticket = whole(client, data)
    part = client.post(NEW, {"upload": ticket, "look": "1", "part": "1"})
    assert part.status_code == 200 and b"<html" not in part.content
    assert 'data-stem="my-rows"' in part.content.decode()
    said = text(part)
    assert "JSON Lines the first line is a whole JSON object" in said
    assert "prompts and completions by the columns prompt, completion; row kind completion" in said
    assert "كيف حالك؟" in said
    made = client.post(NEW, {"upload": ticket, "name": "pairs"})
    assert made.status_code == 302, text(made)
    assert run_to_end(Job.objects.get()).state == "succeeded"
    version = DatasetVersion.objects.get()
    assert (version.rows, version.source_name, version.source_bytes) == (20, "my rows.jsonl", len(data))


def test_a_lost_connection_goes_on_where_it_was(cast: Cast) -> None:
    client, data = cast.page("teammate"), jsonl(PAIRS * 5)
    ticket = begin(client, data)
    assert send(client, ticket, 0, data[:100]).json() == {"arrived": 100}
    assert send(client, ticket, 0, b"").json() == {"arrived": 100}  # how much is there?
    assert send(client, ticket, 0, data[:100]).json() == {"arrived": 100}  # the answer was lost: nothing is doubled
    gap = send(client, ticket, 200, data[200:])
    assert (gap.status_code, gap.json()["detail"]) == (409, "100 bytes are here; go on from there.")
    early = client.post(NEW, {"upload": ticket, "name": "pairs"})
    assert early.status_code == 409 and f"100 of {len(data):,} bytes" in text(early)
    assert send(client, ticket, 100, data[100:]).json() == {"arrived": len(data)}
    assert client.post(NEW, {"upload": ticket, "name": "pairs"}).status_code == 302


def test_more_than_was_announced_or_allowed_is_refused(cast: Cast, settings: Any) -> None:
    client, data = cast.page("teammate"), jsonl(PAIRS)
    ticket = begin(client, data)
    assert send(client, ticket, 0, data + b"x").status_code == 413
    assert send(client, ticket, 0, b"x" * (4 * 1024**2 + 1)).status_code == 413
    settings.MAX_UPLOAD_BYTES = 100
    refused = client.post(BEGIN, {"name": "x", "size": 101})
    assert refused.status_code == 413 and "MAX_UPLOAD_BYTES" in refused.json()["detail"]


@pytest.mark.parametrize("size", ["", "-1", "x", "9" * 30, "1.5"])
def test_a_size_is_a_number(cast: Cast, size: str) -> None:
    before = folders()
    assert cast.page("teammate").post(BEGIN, {"name": "x", "size": size}).status_code == 400
    assert folders() == before


def test_only_who_began_goes_on(cast: Cast) -> None:
    ticket = begin(cast.page("teammate"), b"12345")
    for who in ("owner", "stranger"):
        assert send(cast.page(who), ticket, 0, b"12345").status_code == 409
    assert cast.page("viewer").post(BEGIN, {"name": "x", "size": 1}).status_code == 403
    assert send(cast.page("viewer"), ticket, 0, b"1").status_code == 403
    assert Client().post(BEGIN, {"name": "x", "size": 1}).status_code == 302
    assert send(cast.page("teammate"), "made-up", 0, b"1").status_code == 409


def test_an_unfinished_upload_is_swept_away_after_a_day(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    client = cast.page("teammate")
    begin(client, b"12345")
    before = len(folders())
    monkeypatch.setattr("datasets_app.uploads._KEPT", -1)
    begin(client, b"12345")
    assert len(folders()) <= 1 < before + 1


def look(client: Client, data: bytes, name: str, **fields: Any) -> Any:
    return client.post(NEW, {"file": SimpleUploadedFile(name, data), "look": "1", **fields})


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", "﻿question;answer\n„Wo?“;hier\n".encode(), ["2 columns separated by semicolon", "UTF-8 by its byte"]),
        ("a.csv", "prompt,completion\nnaïve,café\n".encode("cp1252"), ["Windows-1252 (Western Europe)", "naïve"]),
        ("a.jsonl.gz", gzip.compress(jsonl(PAIRS)), ["JSON Lines", "unpacked from gzip"]),
        ("a.bin", parquet({"text": ["one", "two"]}), ["Parquet it begins as", "plain text by the columns text"]),
        ("a.csv", b"text,category\nWhere?,here\n", ["a suggestion: see below whether it is meant", "Where?"]),
        ("a.csv", b"x,y,z\n1,2,3\n", ["unclear: say below what the columns are"]),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\noops\n', ["Line 2: not valid JSON"]),
    ],
)  # fmt: skip
def test_what_was_recognised_is_shown_with_its_evidence(cast: Cast, name: str, data: bytes, words: list[str]) -> None:
    page = look(cast.page("teammate"), data, name)
    assert page.status_code == 200
    for word in words:
        assert word in text(page)
    assert not Dataset.objects.exists()


def test_an_encoding_that_is_said_is_looked_at_and_kept(cast: Cast) -> None:
    client, data = cast.page("teammate"), "prompt,completion\nЗамок,x\n".encode("cp866")
    page = look(client, data, "a.csv", encoding="cp866")
    assert "Замок" in text(page)
    file = SimpleUploadedFile("a.csv", data)
    assert client.post(NEW, {"file": file, "name": "dos", "encoding": "cp866"}).status_code == 302
    assert Job.objects.get().params["encoding"] == "cp866"


def test_a_web_page_saved_as_rows_is_said_at_the_file(cast: Cast) -> None:
    page = look(cast.page("teammate"), b"<!DOCTYPE html><html>502</html>", "rows.jsonl")
    assert "web page (HTML)" in text(page)


def test_columns_are_looked_at_again_as_they_are_chosen(cast: Cast) -> None:
    client = cast.page("teammate")
    ticket = whole(client, b"Frage;Antwort;Bereich\nWo?;Hier.;Versand\n", "kunden.csv")
    asked = {"upload": ticket, "look": "1", "part": "1"}
    wrong = text(client.post(NEW, {**asked, "column_0": "completion"}))
    assert "unclear: say below" in wrong and "The parts completion make no row." in wrong
    right = client.post(NEW, {**asked, "column_0": "prompt", "column_1": "completion", "column_2": ""})
    assert "prompts and completions as you said" in text(right) and "Hier." in text(right)
    assert "Say otherwise" not in text(right), "what is being chosen stays in sight"
    refused = client.post(NEW, {"upload": ticket, "name": "kunden", "column_0": "", "column_1": "", "column_2": ""})
    assert "Say below what each column is" in text(refused) and "columns=" not in text(refused)


def test_rows_from_elsewhere_are_not_imported_by_a_look(cast: Cast, settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR_ROOT = str(tmp_path)
    write(tmp_path, "rows.jsonl", jsonl(PAIRS))
    page = cast.page("teammate").post(NEW, {"source": "dir:rows.jsonl", "name": "pairs", "look": "1"})
    assert page.status_code == 400 and "looked at when it has been fetched" in text(page)
    assert not Dataset.objects.exists() and not Job.objects.exists()


def test_rows_from_elsewhere_through_the_page(cast: Cast, settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR_ROOT = str(tmp_path)
    write(tmp_path, "rows.jsonl", jsonl(PAIRS))
    client = cast.page("teammate")
    wrong = client.post(NEW, {"source": "dir:row.jsonl", "name": "pairs"})
    assert wrong.status_code == 400 and "Did you mean 'rows.jsonl'?" in text(wrong)
    assert client.post(NEW, {"source": "file:/etc/passwd", "name": "pairs"}).status_code == 400
    made = client.post(NEW, {"source": "dir:rows.jsonl", "name": "pairs"})
    assert made.status_code == 302, text(made)
    assert run_to_end(Job.objects.get()).state == "succeeded"
    assert DatasetVersion.objects.get().source_uri == "dir:rows.jsonl"
