"""Stored rows: what goes in comes back, by page and as a stream, also from files of before there were columns."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets_app import storage
from datasets_app.importing import Entry, Importing, Options
from datasets_app.searching import Query, Search, Version
from datasets_app.storage import FILE, GROUP_ROWS, RowsFile
from datasets_app.tests.files import PAIRS, jsonl, write
from project.contracts.rows import TextRow
from project.contracts.runs import UserError
from project.modeling.data import write_rows


def entries_of(folder: Path, rows: list[dict[str, Any]]) -> list[Entry]:
    return list(Importing(write(folder, "rows.jsonl", jsonl(rows)), Options()).rows())


def stored(folder: Path, rows: list[Entry]) -> RowsFile:
    with RowsFile(folder / FILE) as file:
        for entry in rows:
            file.add(entry)
    return file


def test_entries_come_back_as_they_went_in(tmp_path: Path) -> None:
    given = entries_of(tmp_path, [{**pair, "n": n} for n, pair in enumerate(PAIRS * 1200)])
    file = stored(tmp_path, given)
    back = list(storage.entries(tmp_path))
    assert len(back) == storage.count(tmp_path) == file.rows == 4800 > 2 * GROUP_ROWS
    for before, after in zip(given, back, strict=True):
        assert (after.number, after.data, after.meta, after.hash) == (
            before.number,
            before.data,
            before.meta,
            before.hash,
        )
        assert (after.row, after.texts, after.line) == (before.row, before.texts, 0)
    start = GROUP_ROWS + 5
    assert [entry.number for entry in storage.entries(tmp_path, start)][:2] == [start + 1, start + 2]
    assert list(storage.entries(tmp_path, 4800)) == []


def test_rows_that_were_left_out_leave_no_gap_in_the_numbers(tmp_path: Path) -> None:
    given = entries_of(tmp_path, PAIRS)
    stored(tmp_path, [given[3], given[1]])
    assert [(entry.number, entry.data) for entry in storage.entries(tmp_path)] == [
        (1, given[3].data),
        (2, given[1].data),
    ]


def test_rows_are_read_by_number_in_any_order(tmp_path: Path) -> None:
    stored(tmp_path, entries_of(tmp_path, [{"text": f"text {n}"} for n in range(1, GROUP_ROWS + 10)]))
    found = storage.numbered(tmp_path, [GROUP_ROWS + 1, 3, GROUP_ROWS])
    assert [row.row["text"] for row in found] == [f"text {GROUP_ROWS + 1}", "text 3", f"text {GROUP_ROWS}"]
    assert [row.number for row in storage.read(tmp_path, GROUP_ROWS - 1, 3)] == [
        GROUP_ROWS,
        GROUP_ROWS + 1,
        GROUP_ROWS + 2,
    ]
    assert storage.read(tmp_path, GROUP_ROWS + 9, 5) == []


def test_the_digest_of_the_other_columns_is_their_own(tmp_path: Path) -> None:
    digests = []
    for number, extra in enumerate(({}, {"id": 1}, {"id": 2})):
        folder = tmp_path / str(number)
        folder.mkdir()
        digests.append(stored(folder, entries_of(folder, [{**PAIRS[0], **extra}])).facts())
    assert len({facts["digest"] for facts in digests}) == 1
    assert len({facts["meta_digest"] for facts in digests}) == 3


def test_the_stored_columns_say_what_rows_are_filtered_by(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    chat = {
        "messages": [
            {"role": "user", "content": "héllo"},
            {"role": "assistant", "content": "not learned", "weight": 0},
            {"role": "assistant", "content": "a" * 300},
        ],
        "synthetic": "typos",
    }
    stored(tmp_path, entries_of(tmp_path, [chat]))
    (row,) = pq.read_table(tmp_path / FILE).to_pylist()
    assert (row["number"], row["characters"], row["learned_characters"], row["turns"]) == (1, 316, 300, 3)
    assert row["answer"] == "a" * 200 and row["synthetic"] is True
    assert json.loads(row["meta"]) == {"synthetic": "typos"}


def test_the_same_question_has_the_same_key_whatever_its_capitals_and_blanks(tmp_path: Path) -> None:
    questions = ["Where is my card?", " where  IS my\ncard?", "Where is my card"]
    given = entries_of(tmp_path, [{"prompt": text, "completion": str(n)} for n, text in enumerate(questions)])
    one, same, other = (entry.given_key for entry in given)
    assert one == same != other


def test_a_file_without_the_columns_is_read_and_searched_but_not_filtered(tmp_path: Path) -> None:
    write_rows([TextRow(text=f"text {n}") for n in range(1, 31)], tmp_path)
    assert [row.number for row in storage.read(tmp_path, 28, 10)] == [29, 30]
    assert len(list(storage.entries(tmp_path))) == 30
    search, version = Search(str(tmp_path)), Version(tmp_path)
    assert search.find(version, Query(search="TEXT 30"), 0, 20) == {"numbers": [30], "count": 1}
    with pytest.raises(UserError, match="stored before rows could be filtered"):
        search.find(version, Query(least_characters=3), 0, 20)
    assert search.diff(version, version, "added", 0, 5)["counts"]["same"] == 30
