"""A preview stays small, whatever the rows become."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets_app import previewing
from datasets_app.previewing import Answer, PreviewFailed, Request, preview, preview_apart
from datasets_app.storage import FILE, RowsFile
from datasets_app.tests.test_steps import pairs

GROW = {"type": "replace", "find": "a", "replacement": "a" * 3000}


def request(folder: Path, *steps: dict[str, Any], prompt: str = "a") -> Request:
    with RowsFile(folder / FILE) as file:
        for entry in pairs((prompt, "b", {"note": "n" * 30_000}), ("c", "d")):
            file.add(entry)
    return Request(folder=str(folder), steps=list(steps))


def test_a_step_that_makes_a_row_too_long_is_named(tmp_path: Path) -> None:
    answer = preview_apart(request(tmp_path, {"type": "strip"}, GROW, GROW))
    assert answer.error == "Step 3 (transform), find: row 1: it would have more than 8 MiB."
    assert answer.field == "steps.2.find" and not answer.rows


def test_long_texts_are_cut_but_what_is_behind_them_counts(tmp_path: Path) -> None:
    last = {"type": "replace", "find": "end", "replacement": "END"}
    rows = preview(request(tmp_path, last, prompt="x" * 1_000_000 + "end")).rows
    for shown in (rows[0].before, rows[0].after[0]):
        assert shown and shown["prompt"] == "x" * 20_000 + "… (1,000,003 characters)"
    assert len(rows[0].after_meta[0]["note"]) < 20_100
    assert [row.changed for row in rows] == [True, False]


def test_what_another_data_set_has_late_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with RowsFile(other / FILE) as file:
        for entry in pairs(*((f"question {number}", "b") for number in range(1500)), ("c", "d")):
            file.add(entry)
    asked = request(tmp_path, {"type": "without", "data": "test:1"}).model_copy(
        update={"others": {"test:1": str(other)}}
    )
    assert [(row.step, row.why) for row in preview(asked).rows] == [(0, ""), (1, "test:1 asks it too")]
    monkeypatch.setattr(previewing, "_LOOKED_AT", 10_000)  # of long rows fewer, or it would take too long
    assert [row.step for row in preview(asked).rows] == [0, 0]


def test_a_long_answer_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previewing, "_ANSWER", 1000)
    with pytest.raises(PreviewFailed, match="too long for a preview"):
        preview_apart(request(tmp_path, {"type": "strip"}))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory so")
def test_the_memory_of_a_preview_is_limited(tmp_path: Path) -> None:
    code = "from datasets_app import previewing as p; p.preview = lambda request: bytearray(p._MEMORY); p.main()"
    said = request(tmp_path, {"type": "strip"}).model_dump_json()
    done = subprocess.run([sys.executable, "-c", code], input=said, capture_output=True, text=True, check=True)
    assert Answer.model_validate_json(done.stdout).error == "The preview needs too much memory."
