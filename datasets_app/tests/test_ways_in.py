"""What people really send, by every way in: the page, the API and the command take the same and say the same."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command

from datasets_app import storage
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.recipes import import_rows
from datasets_app.tests.files import PAIRS, jsonl, parquet, write
from datasets_app.tests.test_pages import text
from project.contracts.runs import RunSpec
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.runner.context import Context
from project.testing import Cast

Way = Callable[[Cast, Path, str, bytes], str]


def by_page(cast: Cast, folder: Path, name: str, content: bytes) -> str:
    body = {"name": "rows", "file": SimpleUploadedFile(name, content)}
    answer = cast.page("teammate").post("/datasets/new/", body)
    assert answer.status_code in (302, 400), answer.content.decode()[-2000:]
    return "" if answer.status_code == 302 else text(answer)


def by_api(cast: Cast, folder: Path, name: str, content: bytes) -> str:
    body = {"name": "rows", "file": SimpleUploadedFile(name, content)}
    answer = cast.api("teammate").post("/api/v1/datasets/", body, format="multipart")
    assert answer.status_code in (201, 400), answer.content.decode()[-2000:]
    return "" if answer.status_code == 201 else " ".join(answer.json()["errors"]["file"])


def by_command(cast: Cast, folder: Path, name: str, content: bytes) -> str:
    try:
        call_command("import_dataset", str(write(folder, name, content)), "--workspace", "acme", "--name", "rows")
    except CommandError as error:
        assert str(error).startswith("file: ") and "\n" not in str(error)
        return str(error)
    return ""


WAYS: dict[str, Way] = {"page": by_page, "api": by_api, "command": by_command}

EXCEL = 'prompt;completion\r\nWhere, please?;"here; or ""there"""\r\nNaïve café?;oui\r\n'
COLUMNS = {name: [pair[name] for pair in PAIRS] for name in ("prompt", "completion")}
# name of the file, its content, the first prompt and answer that become of it
GOOD_FILES: dict[str, tuple[str, bytes, str, str]] = {
    "Excel's CSV": ("rows.csv", EXCEL.encode("utf-8-sig"), "Where, please?", 'here; or "there"'),
    "UTF-16 of Excel": ("rows.csv", EXCEL.replace(";", "\t").encode("utf-16"), "Where, please?", 'here\t or "there"'),
    "UTF-16 with JSON": ("rows.jsonl", jsonl(PAIRS).decode().encode("utf-16"), *PAIRS[0].values()),
    "JSON Lines named CSV": ("rows.csv", jsonl(PAIRS), *PAIRS[0].values()),
    "CSV named JSON": ("rows.json", EXCEL.encode(), "Where, please?", 'here; or "there"'),
    "Parquet named CSV": ("rows.csv", parquet(COLUMNS), *PAIRS[0].values()),
    "gzip without saying so": ("rows.jsonl", gzip.compress(jsonl(PAIRS)), *PAIRS[0].values()),
    "Arabic": ("rows.jsonl", jsonl(PAIRS[1:2]), *PAIRS[1].values()),
    "Japanese": ("rows.csv", "prompt,completion\n東京の天気は？,晴れです。\n".encode(), "東京の天気は？", "晴れです。"),
    "zero width and emoji": ("rows.jsonl", jsonl(PAIRS[3:]), *PAIRS[3].values()),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", GOOD_FILES)
def test_odd_files_that_are_fine_become_the_rows_they_hold(cast: Cast, tmp_path: Path, what: str, way: str) -> None:
    name, content, prompt, answer = GOOD_FILES[what]
    assert WAYS[way](cast, tmp_path, name, content) == ""
    job = Job.objects.get()
    inputs = {"source": str(write(tmp_path, name, content))}
    context = Context(tmp_path, RunSpec(job=str(job.pk), attempt=1, recipe="import", params=job.params, inputs=inputs))
    import_rows.run(import_rows.Params.model_validate(job.params), context)
    row = storage.read(context.artifact, 0, 1)[0].row
    assert (row["prompt"], row["completion"]) == (prompt, answer)


LINE = json.dumps({"prompt": "a", "completion": "b " * 500}).encode() + b"\n"
PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("rows.jsonl.gz", gzip.compress),
    "zstd": ("rows.jsonl.zst", zstandard.compress),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("of", [LINE, b"\n", b"x"], ids=["rows", "blank lines", "one line"])
def test_a_bomb_is_refused_at_the_cap(
    cast: Cast, tmp_path: Path, settings: Any, of: bytes, packing: str, way: str
) -> None:
    settings.MAX_UNPACKED_BYTES = 1_000_000
    name, pack = PACKED[packing]
    said = WAYS[way](cast, tmp_path, name, pack(of * (20_000_000 // len(of))))
    assert f"{name} unpacks to more than 1,000,000 bytes" in said
    assert "Split it, or ask the operator to raise MAX_UNPACKED_BYTES." in said
    assert not Dataset.objects.exists() and not Job.objects.exists()


def test_a_folder_without_data_is_said(cast: Cast, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    write(tmp_path / "notes", "picture.png", b"\x89PNG")
    with pytest.raises(
        CommandError,
        match=r"file: notes is a folder without a file of rows\. Tuneloop reads Arrow, CSV, .* and folders of them\.",
    ):
        call_command("import_dataset", str(tmp_path / "notes"), "--workspace", "acme", "--name", "rows")
    assert not Dataset.objects.exists()


@pytest.mark.full
@pytest.mark.parametrize("way", ["api", "command"])
def test_a_repository_that_is_not_there_offline(cast: Cast, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Nobody answers at all: the job fails once, and the version says what to do instead."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    if way == "api":
        body = {"name": "rows", "source": {"uri": "hub:nobody/nothing"}}
        assert cast.api("teammate").post("/api/v1/datasets/", body, format="json").status_code == 201
    else:
        call_command("import_dataset", "hub:nobody/nothing", "--workspace", "acme", "--name", "rows")
    job = run_to_end(Job.objects.get())
    assert (job.state, job.failure_field) == ("failed", "source")
    version = DatasetVersion.objects.get()
    assert "The Hub can't be reached from this host" in version.failure
    assert "upload them or put them below DATA_DIR_ROOT" in version.failure
