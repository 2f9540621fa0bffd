"""What a base model would learn from rows: counted, and token by token, as training would have it."""

import json
from pathlib import Path
from typing import Any

import pytest

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, Row, TextRow
from project.contracts.runs import UserError
from project.modeling.data import write_rows
from project.modeling.loading import load_tokenizer
from project.modeling.pieces import pieces
from project.modeling.render import render_row
from training.engine.components.rows import teaches
from training.engine.recipes.preflight import FLAGS, VIEWS, histogram
from training.engine.tests.conftest import Ran, chat

LENGTH = 96
ROWS: list[Row] = [
    chat("what is one plus one", "two"),
    chat("say it in Japanese 🎌 دو", "こんにちは 🎉"),
    chat("long " * 100, "lost"),
    chat("say much", "word " * 100),
    chat("one", "two").model_copy(
        update={"messages": (*chat("one", "two").messages, Message(role="user", content="long " * 100))}
    ),
    ChatRow(messages=(Message(role="user", content="nobody answers"),)),
    ChatRow(messages=(Message(role="assistant", content="nobody asked"),)),
    CompletionRow(prompt="1 + 1 = ", completion="2"),
]
WANTED = ["", "", "answer_lost", "cut_answer", "cut", "no_answer", "refused", ""]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_rows(ROWS, tmp_path / "mixed")


def views(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ran.artifact / VIEWS).read_text().splitlines()]


def test_it_counts_what_training_would_do(run: Any, base: Path, mixed: Path) -> None:
    ran, tokenizer = run("preflight", {"max_seq_length": LENGTH}, data=mixed), load_tokenizer(base)
    whole = [render_row(tokenizer, row) for row, flag in zip(ROWS, WANTED, strict=True) if flag != "refused"]
    cut = [row.cut(LENGTH) for row in whole]
    result = ran.result
    assert [view["flag"] for view in views(ran)] == WANTED
    assert result["flags"] == {flag: WANTED.count(flag) for flag in FLAGS}
    assert result["rows"] == len(ROWS)
    assert result["tokens"] == sum(len(row.ids) for row in whole)
    assert result["kept"] == sum(len(row.ids) for row in cut if teaches(row))
    assert result["learned"] == sum(row.learned for row in cut if teaches(row))
    assert result["lost_tokens"] == sum(row.dropped for row in cut)
    assert result["lost_learned"] == sum(a.learned - b.learned for a, b in zip(whole, cut, strict=True))
    assert result["percentiles"]["100"] == max(len(row.ids) for row in whole)
    assert sum(bar["rows"] for bar in result["histogram"]) == len(ROWS)


def test_every_token_is_shown_as_it_is_trained(run: Any, base: Path, mixed: Path) -> None:
    ran, tokenizer = run("preflight", {"max_seq_length": LENGTH}, data=mixed), load_tokenizer(base)
    for view, row in zip(views(ran), ROWS, strict=True):
        if view["flag"] == "refused":
            assert "no prompt to learn it from" in view["reason"] and not view["runs"]
            continue
        rendered = render_row(tokenizer, row)
        shown = [(kind, text) for kind, texts in view["runs"] for text in texts]
        assert "".join(text for _, text in shown) == tokenizer.decode(rendered.ids, clean_up_tokenization_spaces=False)
        assert [kind for kind, _ in shown] == [
            "lost" if at >= LENGTH else "learned" if bit and at else "context" for at, bit in enumerate(rendered.mask)
        ]


def test_only_so_many_rows_are_kept_to_be_looked_at(run: Any, tmp_path: Path) -> None:
    rows = write_rows([*ROWS[:1] * 10, *ROWS[2:3] * 10], tmp_path / "many")
    ran = run("preflight", {"max_seq_length": LENGTH, "first": 3, "of_each": 4}, data=rows)
    assert [view["row"] for view in views(ran)] == [1, 2, 3, 11, 12, 13, 14]
    assert ran.result["flags"]["answer_lost"] == 10


def test_what_can_not_be_rendered_is_refused(run: Any, tmp_path: Path, mixed: Path) -> None:
    with pytest.raises(UserError, match="Row 1 is a text row"):
        run("preflight", {}, data=write_rows([TextRow(text="a text")], tmp_path / "texts"))
    with pytest.raises(UserError, match="context has"):
        run("preflight", {"max_seq_length": 100_000}, data=mixed)


def test_a_character_of_several_tokens_stands_at_the_first(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    text = "naïve 日本 🎌🎌 عربى end"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids) and "".join(found) == text
    assert "🎌" in "".join(found) and "" in found
    broken = [*ids, *tokenizer("🎌", add_special_tokens=False).input_ids[:1], *ids]
    assert len(pieces(tokenizer, broken)) == len(broken)


@pytest.mark.parametrize("lengths", [[0], [5] * 100, [1, 2, 3], [*range(1, 500)], [10] * 1000 + [100_000]])
def test_a_histogram_counts_every_row_once(lengths: list[int]) -> None:
    bars = histogram(sorted(lengths))
    assert len(bars) <= 25
    for bar in bars:
        assert bar["rows"] == sum(bar["from"] <= length < bar["to"] for length in lengths)
    assert sum(bar["rows"] for bar in bars) == len(lengths)
