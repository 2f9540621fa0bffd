"""`manage.py import_dataset`: the same words as the API, one line on stderr, stable JSON."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset as Saved
from django.core.management import CommandError, call_command

from datasets_app.management.commands import import_dataset
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.tests.files import BAD_FILES, PAIRS, jsonl, write
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.testing import Cast, run_manage


def run(path: Path | str, *arguments: str) -> str:
    out = StringIO()
    call_command("import_dataset", str(path), "--workspace", "acme", "--name", "pairs", *arguments, stdout=out)
    return out.getvalue()


def test_the_json_is_stable(cast: Cast, tmp_path: Path) -> None:
    printed = json.loads(run(write(tmp_path, "rows.jsonl", jsonl(PAIRS)), "--json", "--description", "Four"))
    version = DatasetVersion.objects.get()
    assert set(printed) == {
        "dataset",
        "version",
        "reference",
        "state",
        "rows",
        "row_kind",
        "digest",
        "summary",
        "job",
    }
    assert (printed["reference"], printed["state"], printed["version"]) == ("pairs:1", "importing", str(version.pk))
    assert (tmp_path / "rows.jsonl").exists()
    assert run_to_end(Job.objects.get(pk=printed["job"])).state == "succeeded"


@pytest.mark.full
def test_with_wait_it_runs_without_a_worker(tmp_path: Path) -> None:
    """From an empty folder, in a process of its own, as on somebody's laptop."""
    env = {"DATA_PATH": str(tmp_path / "data")}
    setup = (
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from project.kernel.models import Workspace; Workspace.objects.create(name='Acme', slug='acme')"
    )
    assert run_manage("shell", "--no-imports", "-c", setup, env=env).returncode == 0
    path = write(tmp_path, "rows.csv", b"text,category\nWhere is it?,card_arrival\nWhere is it?,card_arrival\n")
    columns = ("--columns", "prompt=text", "completion=category")
    done = run_manage("import_dataset", str(path), "--name", "pairs", *columns, "--wait", "--json", env=env)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["reference"], printed["state"], printed["rows"]) == ("pairs:1", "ready", 2)
    assert printed["summary"]["duplicates"] == 1


def test_with_wait_it_says_what_the_checks_found(cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SQLite in memory has one connection's table locks for all threads: the job runs in this one.
    monkeypatch.setattr(import_dataset, "follow", lambda job, **_: run_to_end(job))
    said = run(write(tmp_path, "rows.jsonl", jsonl([*PAIRS, PAIRS[0]])), "--wait")
    assert "pairs:1 is ready: 5 rows of kind completion" in said
    assert "warning: One row repeats an earlier one." in said


@pytest.mark.parametrize("what", list(BAD_FILES))
def test_a_bad_file_is_refused_in_one_line(cast: Cast, tmp_path: Path, what: str) -> None:
    name, content, field, words = BAD_FILES[what]
    with pytest.raises(CommandError) as caught:
        run(write(tmp_path, name, content))
    assert str(caught.value).startswith(f"{field}: ") and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not Dataset.objects.exists() and not Job.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--columns", "question"), "'question' is not PART=COLUMN"),
        (("--columns", "prompt=prompt", "prompt=completion"), "'prompt' is given twice"),
        (("--columns", "promt=prompt"), "Did you mean 'prompt'?"),
        (("--format", "jsonlines"), "Did you mean 'jsonl'?"),
    ],
)
def test_wrong_arguments_are_explained(cast: Cast, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(CommandError) as caught:
        run(write(tmp_path, "rows.jsonl", jsonl(PAIRS)), *arguments)
    assert words in str(caught.value)


def test_unclear_columns_are_answered_with_the_argument_to_add(cast: Cast, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--columns prompt=question 'completion=the label'$"):
        run(write(tmp_path, "rows.csv", b"question,the label\nWhere?,here\n"))


def test_a_file_that_is_not_there_is_said(cast: Cast, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="There is no file"):
        run(tmp_path / "nothing.jsonl")
    with pytest.raises(CommandError, match="a folder without a file of rows"):
        run(tmp_path)


def test_a_folder_becomes_one_version(cast: Cast, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    Saved.from_list(PAIRS).save_to_disk(str(folder))
    printed = json.loads(run(folder, "--json"))
    assert run_to_end(Job.objects.get(pk=printed["job"])).state == "succeeded"
    version = DatasetVersion.objects.get()
    assert (version.rows, version.format, version.source_name) == (4, "folder", "saved")
    assert (folder / "state.json").exists() and version.source_bytes > 0


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("hub:a/b/c", "'hub:a/b/c' is not a repository"),
        ("s3://Bucket/x", "is not the address of an object"),
        ("https://example.com/rows.jsonl", "is no place that rows are imported from"),
        ("dir:rows", "switched off"),
        ("s3://secret-bucket/x", "an operator allows none"),
    ],
)
def test_a_place_that_can_not_be_read_is_explained(cast: Cast, place: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        run(place)
    assert not Dataset.objects.exists()


def test_a_failed_import_is_one_line_too(cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_app.incoming.CHECKED_AT_ONCE", 100)
    monkeypatch.setattr(import_dataset, "follow", lambda job, **_: run_to_end(job))
    rows: list[Any] = PAIRS * 100
    with pytest.raises(CommandError, match="Line 401: not valid JSON"):
        run(write(tmp_path, "rows.jsonl", jsonl(rows) + b"oops\n"), "--wait")
