"""The recipe `import`, run as a worker runs it: a file in, `rows.parquet` and `report.json` out. No database."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets_app import storage
from datasets_app.recipes import import_rows
from datasets_app.tests.files import PAIRS, jsonl, one_bad_line, write
from project.contracts.runs import RunSpec, StopRequested
from project.modeling.data import read_rows
from project.runner.context import Context


def run(folder: Path, name: str, content: bytes, **params: Any) -> tuple[Context, dict[str, Any]]:
    """(the context, the report)"""
    source = write(folder, name, content)
    spec = RunSpec(job="j", attempt=1, recipe="import", params=params, inputs={"source": str(source)})
    run_folder = folder / "run"
    run_folder.mkdir()
    context = Context(run_folder, spec)
    import_rows.run(import_rows.Params(source_name=name, **params), context)
    return context, json.loads((context.artifact / "report.json").read_text())


def findings(report: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(finding["check"], finding["severity"]): finding["count"] for finding in report["findings"]}


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    context, _ = run(tmp_path, "rows.jsonl", jsonl([{**pair, "id": n} for n, pair in enumerate(PAIRS)]))
    stored = storage.read(context.artifact, 0, 10)
    assert [row.number for row in stored] == [1, 2, 3, 4]
    assert [{"prompt": row.row["prompt"], "completion": row.row["completion"]} for row in stored] == PAIRS
    assert [row.meta for row in stored] == [{"id": 0}, {"id": 1}, {"id": 2}, {"id": 3}]
    assert [row.prompt for row in read_rows(context.artifact)] == [pair["prompt"] for pair in PAIRS]  # type: ignore[union-attr]


def test_pages_of_rows_cross_row_groups(tmp_path: Path) -> None:
    pairs = [{"prompt": f"question {n}", "completion": str(n)} for n in range(1, 5001)]
    context, report = run(tmp_path, "rows.jsonl", jsonl(pairs))
    assert storage.count(context.artifact) == report["summary"]["rows"] == 5000
    page = storage.read(context.artifact, 2040, 20)
    assert [row.row["completion"] for row in page] == [str(n) for n in range(2041, 2061)]
    assert [row.number for row in storage.read(context.artifact, 4990, 100)] == list(range(4991, 5001))
    assert storage.read(context.artifact, 5000, 10) == []


def test_the_report_counts_what_is_wrong(tmp_path: Path) -> None:
    content = [
        *PAIRS,
        PAIRS[1],
        PAIRS[0],
        PAIRS[1],
        {"prompt": " ", "completion": 4},
        {"prompt": "q", "completion": ""},
    ]
    _, report = run(tmp_path, "rows.jsonl", jsonl(content) + b"oops\n", skip_bad_lines=True)
    assert findings(report) == {
        ("empty_fields", "error"): 1,
        ("empty_fields", "warning"): 1,
        ("duplicates", "warning"): 3,
        ("bad_lines", "warning"): 1,
        ("numbers_as_text", "info"): 1,
        ("characters", "warning"): 1,
    }
    assert report["summary"] == {
        "rows": 9,
        "bad_lines": 1,
        "error": 1,
        "warning": 4,
        "info": 1,
        "empty_fields": 2,
        "duplicates": 3,
    }
    assert report["bad_lines"] == [{"line": 10, "reason": "not valid JSON at column 1: expecting value."}]
    repeats = next(finding for finding in report["findings"] if finding["check"] == "duplicates")
    assert [(example["row"], example["text"]) for example in repeats["examples"]] == [
        (5, "the same as row 2"),
        (6, "the same as row 1"),
        (7, "the same as row 2"),
    ]


def test_lengths_are_counted_in_characters(tmp_path: Path) -> None:
    pairs = [{"prompt": "é" * n, "completion": "👍"} for n in range(1, 101)]
    _, report = run(tmp_path, "rows.jsonl", jsonl(pairs))
    lengths = report["figures"]["lengths"]["rows"]
    assert (lengths["least"], lengths["most"], lengths["percentiles"]["50"]) == (2, 101, 51.5)
    assert sum(bar["rows"] for bar in lengths["histogram"]) == 100
    assert report["figures"]["lengths"]["answers"]["total"] == 100


def test_roles_out_of_order_are_found(tmp_path: Path) -> None:
    def chat(*roles: str) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]}

    content = [
        chat("system", "user", "assistant"),
        chat("user", "assistant", "user"),
        chat("user", "user", "assistant"),
        chat("assistant", "user", "assistant"),
        chat("user"),
        chat("user", "system", "assistant"),
    ]
    _, report = run(tmp_path, "rows.jsonl", jsonl(content))
    titles = {finding["title"] for finding in report["findings"] if finding["check"] == "roles"}
    assert titles == {
        "1 conversation has no assistant turn",
        "1 conversation ends without an assistant turn",
        "1 conversation has two turns of the same role in a row",
        "1 conversation begins with the assistant",
        "1 conversation has a system message that is not the first",
    }
    assert report["figures"]["roles"]["roles"] == {"system": 2, "user": 8, "assistant": 6}


def test_what_messages_say_besides_is_reported(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "a", "reasoning_content": "hm", "train": False, "audio": None}
    rows = [{"messages": [{"role": "user", "content": "q"}, answer]}] * 3
    context, report = run(tmp_path, "rows.jsonl", jsonl(rows))
    titles = [finding["title"] for finding in report["findings"] if finding["check"] == "left_out"]
    assert sorted(titles) == [
        "'reasoning_content' of the messages is left out in 3 rows",
        "'train' of the messages is left out in 3 rows",
    ]
    assert storage.read(context.artifact, 0, 1)[0].row["messages"][1] == {"role": "assistant", "content": "a"}


def test_a_refused_import_leaves_no_result(tmp_path: Path) -> None:
    source = write(tmp_path, "rows.jsonl", one_bad_line())
    spec = RunSpec(
        job="j", attempt=1, recipe="import", params={"source_name": "x.jsonl"}, inputs={"source": str(source)}
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json())
    assert subprocess.run([sys.executable, "-m", "project.runner", str(folder)], check=False).returncode == 1
    last = json.loads((folder / "events.jsonl").read_text().splitlines()[-1])
    assert (last["type"], last["failure"], last["field"]) == ("failed", "user_error", "file")
    assert "Line 5,001" in last["message"]
    assert "skip_bad_lines" in last["hint"]


def test_an_import_stops_when_asked(tmp_path: Path) -> None:
    source = write(tmp_path, "rows.jsonl", jsonl(PAIRS * 200))
    context = Context(tmp_path, RunSpec(job="j", attempt=1, recipe="import", params={}, inputs={"source": str(source)}))
    context.request_stop()
    with pytest.raises(StopRequested):
        import_rows.run(import_rows.Params(), context)


@pytest.mark.full
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """100 MB take less than 100 MB more than 1 MB does: the checks keep 64 bytes a row, the near ones 64 MB at most."""
    random.seed(7)
    words = [f"word{n}" for n in range(400)]
    lines = [
        json.dumps({"prompt": " ".join(random.choices(words, k=90)), "completion": f"answer {n}"}) for n in range(1600)
    ]
    for name, times in (("small.jsonl", 1), ("large.jsonl", 100)):
        with (tmp_path / name).open("w") as file:
            for n in range(times):
                file.writelines(f'{line[:-2]} {n}"}}\n' for line in lines)
    assert (tmp_path / "large.jsonl").stat().st_size > 100 * 10**6
    assert peak_memory(tmp_path, "large.jsonl") - peak_memory(tmp_path, "small.jsonl") < 100 * 10**6


def peak_memory(folder: Path, name: str) -> int:
    """Bytes the process that imports the file took at most."""
    run_folder = folder / f"run-{name}"
    run_folder.mkdir()
    spec = RunSpec(job="j", attempt=1, recipe="import", params={}, inputs={"source": str(folder / name)})
    (run_folder / "spec.json").write_text(spec.model_dump_json())
    child = subprocess.Popen([sys.executable, "-m", "project.runner", str(run_folder)])
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, (run_folder / "events.jsonl").read_text()[-2000:]
    return usage.ru_maxrss * 1024
