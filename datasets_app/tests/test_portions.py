"""An answer of the web process has a budget of bytes, whatever the rows have."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets_app import portions, storage
from datasets_app.importing import Entry, Importing, Options
from datasets_app.storage import FILE, RowsFile
from datasets_app.testing import ready_version
from datasets_app.tests.files import jsonl
from datasets_app.tests.test_rows_api import address
from datasets_app.tests.test_rows_pages import page, url
from project.testing import Cast

MIB = 1024**2


def rows_of(*sizes: int) -> list[dict[str, Any]]:
    return [{"prompt": f"question {n}", "completion": "x" * size, "id": n} for n, size in enumerate(sizes, 1)]


def stored(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(jsonl(rows))
    with RowsFile(folder / FILE) as file:
        for entry in Importing(folder / "rows.jsonl", Options()).rows():
            file.add(entry)
    return folder


def walked(cast: Cast, start: str) -> list[list[Any]]:
    """The results of every page from here on."""
    pages, following = [], start
    while following:
        answer = cast.api("viewer").get(following).json()
        assert answer["results"], "a page without rows would be walked for ever"
        pages.append(answer["results"])
        following = answer["next"]
    return pages


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "BUDGET", 1000)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("asked", [{}, {"search": "question"}, {"sort": "-characters"}, {"most_turns": 2}])
def test_next_goes_on_behind_the_last_row_that_fits(cast: Cast, asked: dict[str, Any]) -> None:
    sizes = (300, 300, 300, 300, 5000, 300, 1)
    version = ready_version(cast.actor("teammate"), "pairs", rows_of(*sizes))
    pages = walked(cast, address(version, "rows", limit=500, **asked))
    numbers = [row["number"] for rows in pages for row in rows]
    order = sorted(range(1, 8), key=lambda n: -len(f"question {n}") - sizes[n - 1])
    assert numbers == (order if "sort" in asked else [1, 2, 3, 4, 5, 6, 7])
    assert [5] in [[row["number"] for row in rows] for rows in pages], "what is over the budget comes alone"
    assert len(pages) == 4
    for rows in pages:
        size = sum(len(json.dumps(row["row"])) + len(json.dumps(row["meta"])) for row in rows)
        assert size <= 1000 + 10 * len(rows) or len(rows) == 1


@pytest.mark.usefixtures("small")
def test_pairs_of_two_versions_have_the_same_budget(cast: Cast) -> None:
    old = ready_version(cast.actor("teammate"), "old", rows_of(300, 300, 300, 2000, 300))
    changed = [{**row, "completion": row["completion"] + "!"} for row in rows_of(300, 300, 300, 2000, 300)]
    new = ready_version(cast.actor("teammate"), "new", changed)
    for what, more in (("diff", {"show": "changed"}), ("leakage", {})):
        pages = walked(cast, address(old, what, to=str(new.pk), limit=500, **more))
        pairs = [(pair["old"]["number"], pair["new"]["number"]) for rows in pages for pair in rows]
        assert pairs == [(n, n) for n in range(1, 6)]
        assert len(pages) == 5
        assert all(pair["new"]["row"]["completion"].endswith("!") for rows in pages for pair in rows)


def test_a_page_of_long_rows_stays_below_the_budget(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", rows_of(*[3 * MIB] * 4))
    answer = cast.api("viewer").get(address(version, "rows", limit=500))
    assert [row["number"] for row in answer.json()["results"]] == [1, 2]
    assert len(answer.content) < portions.BUDGET


def test_rows_that_fit_are_chosen_by_their_order_not_by_their_place(tmp_path: Path) -> None:
    folder = stored(tmp_path / "version", rows_of(*[portions.BUDGET // 3] * 9))
    for wanted in ([9, 1, 5, 2], [3, 3, 3], [2, 9, 1]):
        found = portions.fitting(folder, wanted)
        assert [row.number for row in found] == wanted[:2]
        assert found[0] == storage.numbered(folder, wanted[:1])[0]
    assert portions.fitting(folder, []) == []
    pairs = [(1, None), (None, 2), (4, 5), (6, 7)]
    found_pairs = portions.fitting_pairs((folder, folder), pairs)
    assert [(a and a.number, b and b.number) for a, b in found_pairs] == [(1, None), (None, 2)]


@pytest.mark.usefixtures("small")
def test_a_row_over_the_budget_may_be_read_before_the_first_of_the_answer(tmp_path: Path) -> None:
    folder = stored(tmp_path / "version", rows_of(5000, 300, 300))
    assert [row.number for row in portions.fitting(folder, [2, 1])] == [2]
    assert [row.number for row in portions.fitting(folder, [3, 2, 1])] == [3, 2]
    found = portions.fitting_pairs((folder, folder), [(None, 2), (1, None), (None, 3)])
    assert [(old and old.number, new and new.number) for old, new in found] == [(None, 2)]


def test_a_page_shortens_rows_and_says_so(cast: Cast) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n}."} for n in range(500)]
    texts = [{"role": "user", "content": "u" * 30_000}, {"role": "assistant", "content": "a" * 45_000}]
    wide = {"columns": {f"column {n}": ["v" * 100] * 100 for n in range(100)}}
    version = ready_version(
        cast.actor("teammate"), "chats", [{"messages": turns}, {"messages": texts}, {"messages": texts, **wide}]
    )
    shown = page(cast.page("viewer").get(url(version, "rows/")))
    assert "turn 99." in shown and "turn 100." not in shown and "400 more turns are not shown" in shown
    assert "The first 20 000 of 45 000 characters" in shown and "All 45 000" not in shown
    assert len(shown) < 400_000
    assert "column 0" in shown and "column 99" not in shown


_PEAK = """
import random, resource, sys
from pathlib import Path
import pyarrow.parquet
from datasets_app import portions

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

folder, numbers, before = Path(sys.argv[1]), list(range(1, 61)), peak()
match sys.argv[2]:
    case "rows": found = len(portions.fitting(folder, numbers))
    case "shuffled": found = len(portions.fitting(folder, random.Random(1).sample(numbers, 60)))
    case "pairs": found = len(portions.fitting_pairs((folder, folder), [(n, 61 - n) for n in numbers]))
    case "page": found = sum(len(row.row["completion"]) > 0 for row in portions.each(folder, numbers))
print(found, peak() - before)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in KiB on Linux only")
def test_rows_of_8_mib_take_the_memory_of_a_few(tmp_path: Path) -> None:
    """60 of them are 480 MB, and twice that as an answer is built."""
    with RowsFile(tmp_path / FILE) as file:
        for number in range(1, 61):
            data = json.dumps({"kind": "completion", "prompt": f"{number}", "completion": "x" * (8 * MIB - 100)})
            file.add(Entry(number, 0, None, None, data, "{}", f"{number:064}"))
    for what, count in (("rows", 1), ("shuffled", 1), ("pairs", 1), ("page", 60)):
        command = [sys.executable, "-c", _PEAK, str(tmp_path), what]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found, mib = map(int, done.stdout.split())
        assert found == count
        assert mib < 300, what
