"""How long rows are in tokens, for the kinds of rows that have no loss mask of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from project.contracts.chat import Message
from project.contracts.rows import PreferenceRow, PromptRow, Row, TextRow, UnpairedRow
from project.contracts.runs import UserError
from project.modeling.data import write_rows
from project.modeling.loading import load_tokenizer
from project.modeling.render import prompt_ids, render
from project.modeling.tiny import make_tiny_model
from training.engine.recipes.token_lengths import eats
from training.engine.tests.conftest import chat

LENGTH = 64
ASKED = (Message(role="user", content="Where is my card?"),)


def said(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


def pair(chosen: str, rejected: str) -> PreferenceRow:
    return PreferenceRow(prompt=ASKED, chosen=said(chosen), rejected=said(rejected))


ROWS: dict[str, list[Row]] = {
    "preference": [pair("On its way.", "No"), pair("No", "word " * 100)],
    "unpaired": [UnpairedRow(prompt=ASKED, completion=said(text), label=True) for text in ("Here", "word " * 100)],
    "prompt": [PromptRow(prompt=ASKED), PromptRow(prompt=(Message(role="user", content="word " * 100),))],
    "text": [TextRow(text="Once upon a time"), TextRow(text="word " * 100)],
}


def lengths_of(row: Row, tokenizer: Any) -> list[int]:
    match row:
        case PreferenceRow():
            return [len(render(tokenizer, (*row.prompt, *side)).ids) for side in (row.chosen, row.rejected)]
        case UnpairedRow():
            return [len(render(tokenizer, (*row.prompt, *row.completion)).ids)]
        case PromptRow():
            return [len(prompt_ids(tokenizer, row.prompt))]
        case TextRow():
            return [len(tokenizer(row.text).input_ids) + 1]
        case _:
            raise AssertionError(row)


@pytest.mark.parametrize("kind", list(ROWS))
def test_rows_are_as_long_as_training_would_render_them(run: Any, base: Path, tmp_path: Path, kind: str) -> None:
    rows, tokenizer = ROWS[kind], load_tokenizer(base)
    ran = run("token_lengths", {"max_seq_length": LENGTH}, data=write_rows(rows, tmp_path / kind))
    wanted = [max(lengths_of(row, tokenizer)) for row in rows]
    result = ran.result
    assert wanted[0] < LENGTH < wanted[1]
    assert (result["rows"], result["tokens"]) == (2, sum(wanted))
    assert (result["percentiles"]["50"], result["percentiles"]["100"]) == (wanted[0], wanted[1])
    cut = int(kind != "text")  # texts are learned in pieces, to the last word
    assert result["flags"] == {"refused": 0, "too_long": cut} and result["lost_tokens"] == cut * (wanted[1] - LENGTH)
    assert result["kept"] == sum(wanted) - result["lost_tokens"]
    assert sum(bar["rows"] for bar in result["histogram"]) == 2
    views = [json.loads(line) for line in (ran.artifact / "views.jsonl").read_text().splitlines()]
    flag = "too_long" if cut else ""
    assert [(view["length"], view["flag"]) for view in views] == [(wanted[0], ""), (wanted[1], flag)]
    shown = {kind for view in views for kind, _ in view["runs"]}
    assert shown == ({"context", "lost"} if cut else {"context"})


def test_both_sides_of_pairs_are_measured(run: Any, base: Path, tmp_path: Path) -> None:
    rows, tokenizer = ROWS["preference"], load_tokenizer(base)
    ran = run("token_lengths", {"max_seq_length": LENGTH}, data=write_rows(rows, tmp_path / "pairs"))
    chosen, rejected = zip(*(lengths_of(row, tokenizer) for row in rows), strict=True)
    assert ran.result["pairs"] == {"chosen": sum(chosen) / 2, "rejected": sum(rejected) / 2}


def test_what_the_template_refuses_is_counted(run: Any, tmp_path: Path) -> None:
    plain = make_tiny_model(tmp_path / "plain", template=False)
    data = write_rows(ROWS["preference"], tmp_path / "pairs")
    ran = run("token_lengths", {}, base=plain, data=data)
    assert ran.result["flags"]["refused"] == 2 and ran.result["percentiles"]["100"] == 0


@pytest.mark.parametrize("kind", ["preference", "unpaired"])
def test_what_training_can_t_learn_is_counted_as_refused(run: Any, tmp_path: Path, kind: str) -> None:
    """A template that puts something before answers when it asks for them, and not when they are there."""
    thinking = make_tiny_model(tmp_path / "thinking")
    (thinking / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n(thinking){% endif %}"
    )
    data = write_rows(ROWS[kind], tmp_path / kind)
    recipe = {"preference": "dpo", "unpaired": "kto"}[kind]
    with pytest.raises(UserError, match="renders the prompt alone differently"):
        run(recipe, {"max_steps": 1}, base=thinking, data=data)
    assert run("token_lengths", {}, base=thinking, data=data).result["flags"]["refused"] == 2


def test_conversations_have_a_preflight(run: Any, tmp_path: Path) -> None:
    assert "chat" not in eats
    with pytest.raises(UserError, match="has a preflight"):
        run("token_lengths", {}, data=write_rows([chat("a", "b")], tmp_path / "chat"))


def test_more_than_the_context_is_refused(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="context"):
        run("token_lengths", {"max_seq_length": 100_000}, data=write_rows(ROWS["text"], tmp_path / "text"))
