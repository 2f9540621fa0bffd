"""Rows that were tokenised before are not tokenised again, and what comes out is what would have come out."""

from pathlib import Path
from typing import Any

import pytest

from project.contracts.rows import TextRow
from project.contracts.runs import RunSpec, UserError
from project.modeling.data import iter_rows, write_rows
from project.modeling.loading import load_tokenizer
from project.runner.context import Context
from training.engine.components import token_cache
from training.engine.components.rows import TokenRows
from training.engine.components.token_cache import token_rows
from training.engine.tests.conftest import chat, lessons


class Once:
    """Runs on one host, each with a folder of its own."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.tokenizer, self.runs = folder, load_tokenizer(base), 0

    def __call__(self, data: Path, max_length: int = 512, **spec: Any) -> tuple[TokenRows, bool]:
        """The rows, and whether they came from the cache."""
        self.runs += 1
        place = self.folder / f"run-{self.runs}"
        place.mkdir()
        spec = {"cache": str(self.folder / "cache"), **spec}
        context = Context(place, RunSpec(job="1", attempt=1, recipe="sft", params={}, **spec))
        rows = token_rows(data, self.tokenizer, max_length, context)
        return rows, "used again" in (place / "events.jsonl").read_text()

    @property
    def entries(self) -> list[Path]:
        return sorted((self.folder / "cache" / "tokens").iterdir())


@pytest.fixture
def once(tmp_path: Path, base: Path) -> Once:
    return Once(tmp_path, base)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows that teach something, rows that are cut, and rows with nothing to learn."""
    rows = [*lessons(8), chat("long " * 300, "answer"), chat("what?", ""), chat("say much", "word " * 300)]
    return write_rows(rows, tmp_path / "mixed")


def test_the_second_run_gets_the_same_without_rendering(once: Once, mixed: Path) -> None:
    plain, _ = once(mixed, 64, cache=None)
    first, cached_first = once(mixed, 64)
    second, cached_second = once(mixed, 64)
    assert (cached_first, cached_second) == (False, True)
    assert plain == first == second
    assert second.truncated and second.unlearnable and second.dropped_tokens


def test_the_same_rows_from_another_file_are_the_same(once: Once, mixed: Path, tmp_path: Path) -> None:
    once(mixed)
    copy = write_rows(list(iter_rows(mixed)), tmp_path / "copy")
    assert once(copy)[1]


def test_whatever_changes_the_tokens_is_another_entry(once: Once, mixed: Path, data: Path) -> None:
    once(mixed)
    assert not once(mixed, 32)[1]
    assert not once(data)[1]
    once.tokenizer.chat_template += "{# said otherwise #}"
    assert not once(mixed)[1]
    assert len(once.entries) == 4
    once.tokenizer.split_special_tokens = True  # is in no tokenizer.json
    assert not once(mixed)[1]


@pytest.mark.parametrize("harm", ["short", "flipped", "nonsense"])
def test_a_damaged_entry_is_made_again(once: Once, mixed: Path, harm: str) -> None:
    whole, _ = once(mixed)
    [entry] = once.entries
    stored = bytearray(entry.read_bytes())
    stored[200] ^= 1
    entry.write_bytes({"short": stored[: len(stored) // 2], "flipped": stored, "nonsense": b"{}"}[harm])
    again, cached = once(mixed)
    assert (again, cached) == (whole, False)
    assert once(mixed) == (whole, True)


def test_rows_that_are_refused_are_refused_each_time(once: Once, tmp_path: Path) -> None:
    wrong = write_rows([TextRow(text="a text")], tmp_path / "wrong")
    for _ in range(2):
        with pytest.raises(UserError):
            once(wrong)


def test_what_was_used_longest_ago_makes_room(once: Once, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once(mixed, 64)
    [first] = once.entries
    once(mixed, 63)
    [second] = set(once.entries) - {first}
    once(mixed, 64)  # used: now the other one is older
    monkeypatch.setattr(token_cache, "MOST_BYTES", int(1.5 * first.stat().st_size))
    once(mixed, 62)
    assert first in once.entries and second not in once.entries


def test_a_template_that_writes_the_date_is_rendered_each_day(once: Once, mixed: Path) -> None:
    once.tokenizer.chat_template += "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    once(mixed)
    assert not once(mixed)[1]


def test_rows_without_hashes_are_not_kept(once: Once, mixed: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bare = tmp_path / "bare.parquet"
    pq.write_table(pa.table({"row": pq.read_table(mixed / "rows.parquet")["row"]}), bare)
    rows, cached = once(bare)
    assert not cached and not once(bare)[1]
    assert rows == once(mixed)[0]
