"""Whatever the steps before a split do: what a machine made from a row is never learned while the row is held out."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from datasets_app.editing import made_from, meta_of, origin_of
from datasets_app.importing import Entry
from datasets_app.preparing import StepErrors, parse
from datasets_app.steps import _standins
from datasets_app.storage import FILE, RowsFile, entries
from datasets_app.tests.test_steps import pairs, prepare

LOWER = {"type": "lowercase", "part": "prompt"}
PARTS = {"train": 0.6, "test": 0.4}
COPIES = {"type": "typos", "rate": 0.4}  # so many that a copy is no near duplicate of its row
SAME_QUESTION: tuple[dict[str, Any], ...] = (
    {"type": "drop_duplicates"},
    {"type": "drop_duplicates", "ignore_case": True},
    {"type": "drop_duplicates", "by": "prompt"},
    {"type": "near_duplicates", "part": "prompt", "threshold": 0.9},
)


def asked(count: int, ways: int = 3) -> list[Entry]:
    """Each question in several spellings that are the same in lower case; `q` says which question it is."""
    words = random.Random(0)
    rows = []
    for number in range(count):
        text = f"q{number} " + " ".join(f"{words.getrandbits(40):x}" for _ in range(8))
        rows += [(case(text), "yes", {"q": number}) for case in (str.lower, str.upper, str.title)[:ways]]
    return pairs(*rows)


def noise(chance: random.Random) -> dict[str, Any]:
    return {**COPIES, "share": 0.7, "copies": chance.randint(1, 2)}


def stored(rows: Iterable[Entry], folder: Path) -> list[Entry]:
    """As they come back from a version."""
    with RowsFile(folder / FILE) as file:
        for entry in rows:
            file.add(entry)
    return list(entries(folder))


def learned_and_held_out(rows: list[Entry], folder: Path, by: str = "random") -> tuple[list[Entry], list[Entry]]:
    split = {"type": "split", "parts": PARTS, "by": by}
    learned, held_out = (prepare(rows, split, folder=folder, part=part)[0] for part in PARTS)
    return learned, held_out


def questions(rows: Iterable[Entry]) -> set[int]:
    return {meta_of(row)["q"] for row in rows}


@pytest.mark.parametrize("drop", SAME_QUESTION, ids=str)
@pytest.mark.parametrize("order", ["made, changed, dropped", "changed, made, dropped", "shuffled"])
def test_copies_of_a_dropped_row_follow_the_one_that_stays(drop: dict[str, Any], order: str, tmp_path: Path) -> None:
    steps = {
        "made, changed, dropped": [COPIES, LOWER, drop],
        "changed, made, dropped": [LOWER, COPIES, {"type": "uppercase", "part": "prompt"}, drop],
        "shuffled": [COPIES, LOWER, {"type": "shuffle"}, drop],
    }[order]
    made, _ = prepare(asked(60), *steps, folder=tmp_path)
    learned, held_out = learned_and_held_out(stored(made, tmp_path), tmp_path)
    assert len(held_out) > 10 and sum(bool(made_from(row)) for row in learned) > 10
    assert not questions(learned) & questions(held_out)
    own = {origin_of(row) for row in made if not made_from(row)}
    assert {made_from(row) for row in made} <= {"", *own}, "a copy is of a row that is there"
    assert not any(map(made_from, held_out))


@pytest.mark.parametrize("seed", range(12))
def test_no_list_of_steps_parts_a_copy_from_its_row(seed: int, tmp_path: Path) -> None:
    """Random lists over several versions. Before rows are dropped as equal, their spellings are made one."""
    chance = random.Random(seed)
    rows = asked(40)
    for _ in range(3):
        steps: list[dict[str, Any]] = []
        for _ in range(chance.randint(1, 4)):
            steps += chance.choice(
                (
                    [noise(chance)],
                    [LOWER, chance.choice(SAME_QUESTION)],
                    [{"type": "shuffle"}],
                    [{"type": "columns", "keep": ["q"]}],
                    [{"type": "replace", "find": "yes", "replacement": "no", "part": "answer"}],
                    [{"type": "sample", "fraction": 0.9}],
                    [{"type": "convert", "to": "chat"}, {"type": "convert", "to": "completion"}],
                )
            )
        rows = stored(prepare(rows, *steps, seed=seed, folder=tmp_path)[0], tmp_path)
    rows = stored(prepare(rows, LOWER, folder=tmp_path)[0], tmp_path)  # spellings of one question are one family now
    real = {origin_of(row) for row in rows if not made_from(row)}
    for by in ("random", "stratified"):
        learned, held_out = learned_and_held_out(rows, tmp_path, by)
        copied = {meta_of(row)["q"] for row in learned if made_from(row) in real}
        assert not copied & questions(row for row in held_out if not made_from(row))
        assert not any(made_from(row) in real for row in held_out)


def test_without_copies_rows_do_not_wait(tmp_path: Path) -> None:
    def endless() -> Iterable[Entry]:
        yield from asked(2000, ways=2)
        raise AssertionError("the step took all rows before it gave one")

    from datasets_app.preparing import Preparation

    preparation = Preparation(parse([LOWER, {"type": "drop_duplicates"}]), folder=tmp_path)
    assert next(iter(preparation.rows(endless())))


def test_copies_that_name_what_is_no_row_keep_their_name(tmp_path: Path) -> None:
    rows = asked(3)
    foreign = [row._replace(meta='{"q":0,"synthetic":{"by":"me","of":"page 3"}}') for row in rows[:2]]
    made, _ = prepare([*foreign, *rows], LOWER, {"type": "drop_duplicates"}, folder=tmp_path)
    assert [made_from(row) for row in made] == ["page 3", "", ""]
    assert not list(tmp_path.iterdir()), "nothing is left on disk"


@pytest.mark.parametrize(
    "step",
    [
        {"type": "columns", "drop": ["synthetic"]},
        {"type": "columns", "rename": {"synthetic": "x"}},
        {"type": "columns", "rename": {"x": "synthetic"}},
        {"type": "columns", "map": {"prompt": "synthetic"}},
        {"type": "mix", "data": {"other": 1}, "mark": "synthetic"},
    ],
    ids=str,
)
def test_no_step_takes_the_mark_of_a_copy_away(step: dict[str, Any]) -> None:
    with pytest.raises(StepErrors, match="'synthetic'"):
        parse([step])


def test_keeping_other_columns_keeps_the_mark(tmp_path: Path) -> None:
    made, _ = prepare(asked(5), COPIES, {"type": "columns", "keep": ["q"]}, folder=tmp_path)
    assert sum(bool(made_from(row)) for row in made) > 5
    assert {column for row in made for column in meta_of(row)} == {"q", "synthetic"}


def test_a_hash_is_told_from_other_names() -> None:
    assert _standins._is_hash("0f" * 32)
    assert not _standins._is_hash("0F" * 32) and not _standins._is_hash("page 3")
