"""Every preparation step keeps its promises, and does what its page says."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from datasets_app.editing import meta_of
from datasets_app.importing import Entry, texts
from datasets_app.preparing import STEPS, Observer, Preparation, Step, StepError, StepErrors, parse
from datasets_app.storage import FILE, RowsFile, entries
from project.contracts.plugins import UnknownPlugin
from project.contracts.rows import ROW, row_bytes, row_hash
from project.contracts.runs import UserError

CHAT = [
    {"role": "system", "content": "Be kind"},
    {"role": "user", "content": "Hello, I am anna@example.com"},
    {"role": "assistant", "content": "Hi Anna"},
]
PROMPT = [{"role": "user", "content": "Where is my card?"}]
ANSWERS = [[{"role": "assistant", "content": "It is on its way."}], [{"role": "assistant", "content": "Dunno"}]]
KINDS: dict[str, dict[str, Any]] = {
    "chat": {"kind": "chat", "messages": CHAT},
    "completion": {"kind": "completion", "prompt": "  Where is my CARD?", "completion": "card_arrival"},
    "preference": {"kind": "preference", "prompt": PROMPT, "chosen": ANSWERS[0], "rejected": ANSWERS[1]},
    "unpaired": {"kind": "unpaired", "prompt": PROMPT, "completion": ANSWERS[1], "label": False},
    "prompt": {"kind": "prompt", "prompt": PROMPT},
    "text": {"kind": "text", "text": "Once upon a time there was a card."},
}
# Where a step's parameters have to be other than its example's, or it refuses a kind of rows, and why.
PARAMS: dict[str, dict[str, Any]] = {
    "mix": {"data": {"other:1": 1.0}},
    "without": {"data": "other:1"},
    "sample": {"fraction": 0.5},
    "shuffle": {},
    "balance": {"rows": 1},
    "casing": {},
}
REFUSES = {
    ("system_prompt", "completion"): "has no system prompt",
    ("system_prompt", "text"): "has no system prompt",
    ("edits_to_pairs", "preference"): "it is a pair already",
    ("edits_to_pairs", "prompt"): "has no answer",
    ("edits_to_pairs", "text"): "has no answer",
}


def entry(row: dict[str, Any], number: int = 1, meta: dict[str, Any] | None = None) -> Entry:
    made = ROW.validate_python(row)
    data = row_bytes(made).decode()
    return Entry(number, 0, made, texts(made), data, json.dumps(meta or {}), row_hash(made), ())


def pairs(*rows: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> list[Entry]:
    return [
        entry({"kind": "completion", "prompt": row[0], "completion": row[1]}, number, row[2] if len(row) > 2 else None)
        for number, row in enumerate(rows, 1)
    ]


def numbered(count: int, **meta: Any) -> list[Entry]:
    return pairs(*((f"question {n}", f"answer {n}", {k: v(n) for k, v in meta.items()}) for n in range(count)))


def prepare(
    rows: Iterable[Entry],
    *steps: dict[str, Any],
    folder: Path,
    part: str = "",
    seed: int = 0,
    others: dict[str, Sequence[Entry]] | None = None,
) -> tuple[list[Entry], Preparation]:
    preparation = Preparation(
        parse(list(steps)), folder=folder, seed=seed, part=part, others=lambda name: iter((others or {})[name])
    )
    return list(preparation.rows(rows)), preparation


def of(rows: Iterable[Entry]) -> list[tuple[Any, ...]]:
    return [(row.row.prompt, row.row.completion) for row in rows]  # type: ignore[union-attr]


TO_CHAT = {"type": "convert", "to": "chat"}


# --- the contract


def params_of(name: str) -> dict[str, Any]:
    return {"type": name, **PARAMS.get(name, STEPS.get(name).Params.example)}


@pytest.mark.parametrize("name", STEPS.names())
def test_a_step_says_what_it_is_and_what_its_parameters_mean(name: str) -> None:
    step = STEPS.get(name)
    assert step.label and step.__doc__
    for field_name, field in step.Params.model_fields.items():
        assert field.description, f"{name}.{field_name} has no help"
        assert field.default is not PydanticUndefined or field_name in params_of(name), f"no example of {field_name}"
    schema = step.Params.model_json_schema()
    assert schema["additionalProperties"] is False
    json.dumps(schema)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", STEPS.names())
def test_a_step_works_on_every_kind_of_rows_or_says_why_not(name: str, kind: str, tmp_path: Path) -> None:
    meta = {"source": "web", "original": "Another answer"}
    rows = [entry(KINDS[kind], number, meta) for number in (1, 2, 3)]
    others = {"other:1": [entry(KINDS[kind], 1)]}
    refusal = REFUSES.get((name, kind))
    if refusal:
        with pytest.raises(StepError, match=refusal) as caught:
            prepare(rows, params_of(name), folder=tmp_path, others=others)
        assert f"Step 1 ({name}), " in str(caught.value) and "row 1: " in str(caught.value)
        assert caught.value.field.startswith("steps.0.")
        return
    made, preparation = prepare(rows, params_of(name), folder=tmp_path, others=others)
    tally = preparation.tallies[0]
    assert tally.rows_in == len(rows) and tally.rows_out == len(made)
    assert tally.rows_in - tally.dropped + tally.added == tally.rows_out
    assert len({row.row.kind for row in made}) <= 1
    for row in made:  # what comes out is canonical
        again = ROW.validate_json(row.data)
        assert again == row.row and row_hash(again) == row.hash and texts(again) == row.texts
        assert isinstance(json.loads(row.meta), dict)
    assert not list(tmp_path.iterdir()), "something is left on disk"


@pytest.mark.parametrize("name", STEPS.names())
def test_the_same_seed_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    rows = [*numbered(300), *numbered(20)]
    for row in range(len(rows)):
        rows[row] = rows[row]._replace(meta=json.dumps({"original": f"another {row}", "source": "web"}))
    others = {"other:1": prepare(numbered(50), TO_CHAT, folder=tmp_path)[0]}
    runs = []
    for seed in (7, 7, 8):
        made, _ = prepare(rows, TO_CHAT, params_of(name), folder=tmp_path, seed=seed, others=others)
        runs.append([(row.hash, row.meta) for row in made])
    assert runs[0] == runs[1]
    if "seed" in STEPS.get(name).Params.model_fields and name != "split":  # without a part, a split keeps every row
        assert runs[0] != runs[2], "the seed makes no difference"


@pytest.mark.parametrize("name", STEPS.names())
def test_a_step_takes_no_rows_and_no_unknown_parameter(name: str, tmp_path: Path) -> None:
    others = {"other:1": [entry(KINDS["completion"])]} if name in ("mix", "without") else {}
    made, _ = prepare([], params_of(name), folder=tmp_path, others=others)
    assert len(made) <= 1  # of a mix, the other data set's row
    with pytest.raises(StepErrors, match=r"Step 1 .*nonsense: There is no such parameter\. Known: "):
        parse([{**params_of(name), "nonsense": 1}])


@pytest.mark.parametrize("name", STEPS.names())
def test_a_stored_step_is_read_as_the_same_step(name: str) -> None:
    step = parse([params_of(name)])[0]
    assert parse([step.as_json()])[0].params == step.params


# --- lists of steps


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ([], "steps", "Add at least one step"),
        ("filter", "steps", "as a list"),
        ([{"type": "strip"}] * 51, "steps", "at most 50"),
        ([{"type": "strip"}, {"type": "fliter"}], "steps.1.type", "Step 2, type: Unknown step 'fliter'. Did you mean"),
        ([{"type": "paraphrase"}], "steps.0.type", "POST /api/v1/synthetic-data/augment/"),
        ([{"type": "strip"}, {"type": "back_translation", "through": "German"}], "steps.1.type", "no step"),
        ([{"condition": "x"}], "steps.0", "an object with a type"),
        ([{"type": "filter"}], "steps.0.condition", "Step 1 (filter), condition: This is needed."),
        ([{"type": "filter", "condition": "lenght > 1"}], "steps.0.condition", "Did you mean 'length'?"),
        ([{"type": "sample", "rows": 0}], "steps.0.rows", "greater than or equal to 1"),
        ([{"type": "sample"}], "steps.0", "how many rows, or which fraction"),
        ([{"type": "replace"}], "steps.0", "replace needs 'find'"),
        ([{"type": "replace", "find": "(", "regex": True}], "steps.0", "is wrong"),
        ([{"type": "replace", "find": "a", "replacement": "\\2", "regex": True}], "steps.0", "does not fit"),
        ([{"type": "template", "template": "{promt}", "part": "prompt"}], "steps.0", "can't be filled in"),
        ([{"type": "split"}, {"type": "split"}], "steps.1", "Only one step may split"),
        ([{"type": "split", "parts": {"a": 0.5, "b": 0.6}}], "steps.0.parts", "add up to 1; they make 1.1"),
        ([{"type": "split", "parts": {"a/b": 0.5, "b": 0.5}}], "steps.0.parts", "no name for a part"),
        ([{"type": "split", "by": "group"}], "steps.0", "which column"),
        ([{"type": "redact", "kinds": ["e-mail"]}], "steps.0.kinds", "Known: email"),
        ([{"type": "mix", "data": {"x": 0}}], "steps.0.data", "more than 0"),
        ([{"type": "columns"}], "steps.0", "what to rename"),
        ([{"type": "replace", "find": "\0"}], "steps.0.find", "Step 1 (replace), find: It holds the character NUL"),
        ([{"type": "strip"}, {"type": "mix", "data": {"a\0": 1}}], "steps.1.data", "Step 2 (mix), data: It holds"),
        ([{"type": "replace", "find": "a", "replacement": "\ud83d"}], "steps.0.replacement", "half a character"),
        ([{"type": "strip", "a\0": 1}], "steps.0.a?", "NUL"),
    ],
)  # fmt: skip
def test_wrong_steps_are_refused_by_number_and_field(value: Any, field: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(value)
    assert caught.value.field == field and words in str(caught.value)


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(StepErrors) as caught:
        parse([{"type": "filter"}, {"type": "strip"}, {"type": "sample", "rows": 0, "sed": 1}])
    assert list(caught.value.by_field()) == ["steps.0.condition", "steps.2.rows", "steps.2.sed"]


def test_short_forms_and_a_file_with_a_steps_key() -> None:
    short = parse({"steps": [{"type": "lowercase"}, {"type": "transform", "operation": "lowercase"}]})
    assert short[0].params == short[1].params and short[0].as_json() == {"type": "transform", "operation": "lowercase"}
    assert parse([{"type": "filter", "condition": "length > 10"}])[0].as_json() == {
        "type": "filter",
        "condition": "length > 10",
    }
    with pytest.raises(UnknownPlugin):
        STEPS.get("lowercase")


def test_nothing_left_names_the_step_that_took_the_last_row(tmp_path: Path) -> None:
    steps = [{"type": "strip"}, {"type": "filter", "condition": "length > 1000"}, {"type": "drop_duplicates"}]
    made, preparation = prepare(numbered(3), *steps, folder=tmp_path)
    with pytest.raises(
        StepError, match=r"Step 2 \(filter\): It leaves no row of the 3 it got \(the condition is false: 3\)"
    ):
        preparation.require_rows(len(made), False)


def test_rows_of_two_kinds_are_refused(tmp_path: Path) -> None:
    others = {"talk:1": [entry(KINDS["chat"])]}
    with pytest.raises(UserError, match="two kinds: completion and chat"):
        prepare(numbered(3), {"type": "mix", "data": {"talk:1": 0.001}}, folder=tmp_path, others=others)


# --- each step


def test_filter(tmp_path: Path) -> None:
    rows = pairs(("short", "a"), ("much longer than that", "b", {"score": 3}), ("much longer than this", "c"))
    kept, preparation = prepare(rows, {"type": "filter", "condition": "length > 10"}, folder=tmp_path)
    assert [row.number for row in kept] == [2, 3]
    assert preparation.tallies[0].why == {"the condition is false": 1}
    others, _ = prepare(rows, {"type": "filter", "condition": "meta.score >= 3", "keep": "others"}, folder=tmp_path)
    assert [row.number for row in others] == [1, 3]
    with pytest.raises(StepError, match="row 1: a completion row has no 'chosen'"):
        prepare(rows, {"type": "filter", "condition": "chosen != rejected"}, folder=tmp_path)


TALK = [{"role": "user", "content": "Hello  you"}, {"role": "assistant", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{**TALK[0], "role": "system"}, TALK[1]]},
        {"messages": [TALK[0], {**TALK[1], "weight": 0}]},
        {"messages": [{**TALK[0], "content": "Hello"}, {**TALK[1], "content": "you\nHi"}]},
        {"messages": TALK, "tools": [TOOL]},
        {"messages": TALK, "tools": [{**TOOL, "function": {"name": "Find", "parameters": {}}}]},
        {"kind": "unpaired", "prompt": TALK[:1], "completion": TALK[1:], "label": True},
        {"kind": "unpaired", "prompt": TALK[:1], "completion": TALK[1:], "label": False},
    ],
)
def test_rows_that_differ_in_more_than_letters_are_no_duplicates(other: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"messages": [{**TALK[0], "content": " hELLO you\n"}, TALK[1]]}, other]
    rows += [{"messages": TALK, "tools": [{**TOOL, "function": {"name": "FIND", "parameters": {}}}]}]
    rows += [{"kind": "unpaired", "prompt": TALK[1:], "completion": TALK[1:], "label": True}]
    entries_ = [entry({"kind": "chat", **row}, number) for number, row in enumerate(rows, 1)]
    flipped = {**json.loads(entries_[2].data)}
    if "label" in flipped:
        entries_.append(entry({**flipped, "label": not flipped["label"]}, 6))
    step = parse([{"type": "drop_duplicates", "ignore_case": True}])[0]
    context = Preparation([step], folder=tmp_path)
    kept = list(step.plugin.run(step.params, iter(entries_), context._contexts[0]))
    assert [row.number for row in kept] == [row.number for row in entries_ if row.number != 2]


def test_a_regular_expression_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_app.expressions.REGEX_SECONDS", 0.05)
    rows = pairs(("a" * 60 + "!", "b"))
    with pytest.raises(StepError, match=r"row 1: the regular expression .* takes longer"):
        prepare(rows, {"type": "filter", "condition": "matches(prompt, '^(a|a)*$')"}, folder=tmp_path)
    monkeypatch.setattr("datasets_app.steps.transform.REGEX_SECONDS", 0.05)
    with pytest.raises(StepError, match="takes longer"):
        prepare(rows, {"type": "replace", "find": "^(a|a)*$", "regex": True}, folder=tmp_path)


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ({"type": "lowercase"}, ("WHERE", "HERE"), ("where", "here")),
        ({"type": "uppercase", "part": "answer"}, ("where", "here"), ("where", "HERE")),
        ({"type": "strip"}, (" a \n", "\tb"), ("a", "b")),
        ({"type": "collapse_blanks"}, (" a \t b\n\n\n\nc ", "x"), ("a b\n\nc", "x")),
        ({"type": "normalize"}, ("e\u0301\u200b\ufeff\x00", "نمی\u200cخواهم"), ("é", "نمی\u200cخواهم")),
        ({"type": "normalize", "form": "NFKC"}, ("① Ａ", "ﬁ"), ("1 A", "fi")),
        ({"type": "replace", "find": "cat", "replacement": "dog"}, ("a cat", "cats"), ("a dog", "dogs")),
        (
            {"type": "replace", "find": r"(\d+) EUR", "replacement": r"€\1", "regex": True, "part": "prompt"},
            ("5 EUR", "6 EUR"),
            ("€5", "6 EUR"),
        ),
        (
            {"type": "template", "template": "{{{meta.topic}}} {prompt}?", "part": "prompt"},
            ("Where", "here"),
            ("{cards} Where?", "here"),
        ),
        ({"type": "truncate", "characters": 9}, ("The quick brown fox", "short"), ("The quick", "short")),
        ({"type": "truncate", "characters": 12}, ("The quick brown fox", "short"), ("The quick", "short")),
        ({"type": "truncate", "characters": 6, "cut": "start", "mark": "…"}, ("one two", "x"), ("…two", "x")),
        ({"type": "truncate", "characters": 7, "cut": "middle", "words": False}, ("0123456789", "x"), ("0123789", "x")),
        ({"type": "redact"}, ("I am anna@example.com", "ok"), ("I am [EMAIL]", "ok")),
        (
            {"type": "redact", "kinds": ["credentials"], "replacement": "***"},
            ("anna@example.com ghp_" + "a1B2" * 9, "ok"),
            ("anna@example.com ***", "ok"),
        ),
    ],
)
def test_texts_are_changed(
    step: dict[str, Any], before: tuple[str, str], after: tuple[str, str], tmp_path: Path
) -> None:
    made, preparation = prepare(pairs((*before, {"topic": "cards"})), step, folder=tmp_path)
    assert of(made) == [after]
    assert preparation.tallies[0].changed == 1
    again, _ = prepare(made, step, folder=tmp_path)
    assert step["type"] == "template" or of(again) == [after]


LONG = "a" * 3000


@pytest.mark.parametrize(
    ("step", "where"),
    [
        ({"type": "replace", "find": "a", "replacement": LONG}, "find"),
        ({"type": "replace", "find": "a", "replacement": LONG, "regex": True}, "find"),
        ({"type": "replace", "find": "(?s)^(.*)$", "replacement": r"\1" * 3000, "regex": True}, "find"),
        ({"type": "template", "template": "{prompt}" * 2000, "part": "prompt"}, "template"),
    ],
)
def test_a_row_that_grows_too_long_is_refused_with_its_step(step: dict[str, Any], where: str, tmp_path: Path) -> None:
    rows = pairs(("b", "c"), ("a" * 9000, "c"))
    with pytest.raises(StepError, match=rf"Step 2 \(transform\), {where}: row 2: it would have more than 8 MiB"):
        prepare(rows, {"type": "strip"}, step, folder=tmp_path)


def test_texts_of_a_row_are_limited_together(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a" * 1000}] * 20
    step = {"type": "replace", "find": "a", "replacement": "b" * 1000}
    with pytest.raises(StepError, match="8 MiB"):
        prepare([entry({"kind": "chat", "messages": talk})], step, folder=tmp_path)


def test_a_row_that_was_long_before_may_stay_so(tmp_path: Path) -> None:
    made, _ = prepare([entry({"kind": "text", "text": "AB" * 5_000_000})], {"type": "lowercase"}, folder=tmp_path)
    assert made[0].data.startswith('{"kind":"text","text":"abab') and len(made[0].data) > 10_000_000


def test_parts_of_conversations_and_pairs(tmp_path: Path) -> None:
    def contents(kind: str, part: str) -> str:
        made, _ = prepare([entry(KINDS[kind])], {"type": "uppercase", "part": part}, folder=tmp_path)
        return " | ".join(text.text for text in made[0].texts)

    assert contents("chat", "system").startswith("BE KIND | Hello")
    assert contents("chat", "prompt") == "Be kind | HELLO, I AM ANNA@EXAMPLE.COM | Hi Anna"
    assert contents("chat", "answer").endswith("HI ANNA")
    assert contents("preference", "answer") == "Where is my card? | IT IS ON ITS WAY. | DUNNO"
    assert contents("unpaired", "prompt") == "WHERE IS MY CARD? | Dunno"


def test_tool_calls_survive_a_change_of_texts(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "Find", "arguments": '{"What": "Card"}'}}
    talk = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "Find"}}]
    row = entry({"kind": "chat", "messages": talk, "tools": tools})
    made, _ = prepare([row], {"type": "lowercase"}, folder=tmp_path)
    plain = json.loads(made[0].data)
    assert plain["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"What": "Card"}'
    assert plain["tools"] == tools and plain["messages"][0]["content"] == "go"
    with pytest.raises(StepError, match="call of a tool"):
        prepare([row], {"type": "convert", "to": "completion"}, folder=tmp_path)


def test_columns_are_renamed_dropped_and_mapped(tmp_path: Path) -> None:
    rows = pairs(("q", "a", {"label": "x", "id": 1, "old": True}))
    made, preparation = prepare(
        rows, {"type": "columns", "rename": {"old": "new", "gone": "x"}, "drop": ["id"]}, folder=tmp_path
    )
    assert meta_of(made[0]) == {"label": "x", "new": True}
    assert any("no row has the column 'gone'" in note for note in preparation.tallies[0].notes)
    made, _ = prepare(rows, {"type": "columns", "keep": ["id"]}, folder=tmp_path)
    assert meta_of(made[0]) == {"id": 1}
    mapped = {"type": "columns", "map": {"prompt": "prompt", "completion": "label"}}
    made, _ = prepare(rows, mapped, folder=tmp_path)
    assert of(made) == [("q", "x")] and meta_of(made[0]) == {"id": 1, "old": True, "completion": "a"}
    made, _ = prepare(rows, {"type": "columns", "map": {"text": "prompt"}}, folder=tmp_path)
    assert made[0].row.kind == "text"
    with pytest.raises(StepError, match=r"Step 1 .*map: row 1: There is no column 'lable'") as caught:
        prepare(rows, {"type": "columns", "map": {"text": "lable"}}, folder=tmp_path)
    assert caught.value.hint == "Did you mean 'label'?"


def test_exact_duplicates(tmp_path: Path) -> None:
    rows = [*numbered(5000), *numbered(3), *pairs(("QUESTION  1", "answer 1"))]
    kept, preparation = prepare(rows, {"type": "drop_duplicates"}, folder=tmp_path)
    assert of(kept) == of(rows[:5000] + rows[-1:])
    assert preparation.tallies[0].dropped == 3
    kept, _ = prepare(rows, {"type": "drop_duplicates", "ignore_case": True}, folder=tmp_path)
    assert of(kept) == of(rows[:5000])
    same = pairs(("q", "1"), ("q", "2"), ("p", "1"))
    assert of(prepare(same, {"type": "drop_duplicates", "by": "prompt"}, folder=tmp_path)[0]) == [
        ("q", "1"),
        ("p", "1"),
    ]
    assert of(prepare(same, {"type": "drop_duplicates", "by": "answer"}, folder=tmp_path)[0]) == [
        ("q", "1"),
        ("q", "2"),
    ]


def test_near_duplicates_and_their_budget(tmp_path: Path) -> None:
    first = "My new card has still not arrived after two whole weeks of waiting for it, what can I do now?"
    rows = pairs(
        (first, "x"), (first.replace("weeks", "week").upper(), "x"), ("Something else entirely, my friend.", "y")
    )
    kept, preparation = prepare(rows, {"type": "near_duplicates"}, folder=tmp_path)
    assert [row.number for row in kept] == [1, 3]
    assert preparation.tallies[0].why == {"an earlier row is almost the same": 1}
    with pytest.raises(StepError, match="can't be compared in 16 MB") as caught:
        prepare(_many(31_000), {"type": "near_duplicates", "memory_mb": 16}, folder=tmp_path)
    assert caught.value.field == "steps.0.memory_mb"


def _many(count: int) -> Iterator[Entry]:
    row = entry({"kind": "text", "text": "x"})
    yield from (row for _ in range(count))


def test_samples(tmp_path: Path) -> None:
    rows = numbered(1000)
    some, _ = prepare(rows, {"type": "sample", "rows": 100}, folder=tmp_path)
    numbers = [row.number for row in some]
    assert len(numbers) == 100 and numbers == sorted(numbers) and numbers != list(range(1, 101))
    assert max(Counter(number // 200 for number in numbers).values()) < 40  # from everywhere
    assert len(prepare(rows, {"type": "sample", "fraction": 0.25}, folder=tmp_path)[0]) == 250
    assert len(prepare(rows, {"type": "sample", "rows": 5000}, folder=tmp_path)[0]) == 1000
    first, _ = prepare(rows, {"type": "sample", "rows": 3, "method": "first"}, folder=tmp_path)
    assert [row.number for row in first] == [1, 2, 3]
    own, _ = prepare(rows, {"type": "sample", "rows": 100, "seed": 5}, folder=tmp_path)
    assert own == prepare(rows, {"type": "sample", "rows": 100, "seed": 5}, folder=tmp_path, seed=9)[0]


@pytest.mark.parametrize("count", [10, 6000])
def test_a_shuffle_loses_nothing_in_memory_and_on_disk(count: int, tmp_path: Path) -> None:
    rows = numbered(count)
    mixed, _ = prepare(rows, {"type": "shuffle"}, folder=tmp_path)
    assert mixed != rows and sorted(row.number for row in mixed) == [row.number for row in rows]
    places = [row.number for row in mixed[: count // 2]]
    assert 0.3 < sum(number > count / 2 for number in places) / len(places) < 0.7 or count < 100


def test_mixing_by_weight(tmp_path: Path) -> None:
    here, there = numbered(1000), {"dolly:2": pairs(*((f"dolly {n}", "x") for n in range(1000)))}
    step = {"type": "mix", "data": {"dolly:2": 0.25}, "weight": 0.75}
    every, _ = prepare(here, step, folder=tmp_path, others=there)
    assert len(every) == 2000
    until_first, preparation = prepare(here, {**step, "until": "first_ends"}, folder=tmp_path, others=there)
    share = sum(meta_of(row).get("source") == "dolly:2" for row in until_first) / len(until_first)
    assert 0.2 < share < 0.3 and preparation.tallies[0].notes["dolly:2"] < 400
    exactly, _ = prepare(here, {**step, "until": "rows", "rows": 5000}, folder=tmp_path, others=there)
    assert len(exactly) == 5000 and 0.2 < sum("dolly" in row.data for row in exactly) / 5000 < 0.3
    assert {row.number for row in exactly} - {0} == {row.number for row in here}  # all, and some of them anew


def test_what_another_data_set_asks_is_dropped(tmp_path: Path) -> None:
    here = pairs(("Where is  my card?", "here"), ("Hi", "hello"), ("Bye", "ciao"))
    there = {"test:1": pairs(("WHERE is my card?", "there"), ("Bye", "ciao"), ("Never", "asked"))}
    step = {"type": "without", "data": "test:1"}
    made, preparation = prepare(here, step, folder=tmp_path, others=there)
    assert of(made) == [("Hi", "hello")] and preparation.tallies[0].why == {"test:1 asks it too": 2}
    made, _ = prepare(here, {**step, "by": "row"}, folder=tmp_path, others=there)
    assert of(made) == [("Where is  my card?", "here"), ("Hi", "hello")]
    assert len(prepare(here, step, folder=tmp_path, others={"test:1": []})[0]) == 3
    with pytest.raises(StepErrors, match="Name the data set"):
        parse([{**step, "data": " "}])


def test_a_frequent_label_is_cut_and_a_rare_one_kept(tmp_path: Path) -> None:
    rows = pairs(*((f"q {n}", "rare" if n % 10 == 0 else "often", {"topic": n % 2}) for n in range(100)))
    made, preparation = prepare(rows, {"type": "balance", "rows": 30}, folder=tmp_path)
    assert Counter(answer for _, answer in of(made)) == {"often": 30, "rare": 10}
    assert [row.number for row in made] == sorted(row.number for row in made)
    assert preparation.tallies[0].why == {"its label has more than 30 rows": 60}
    by_topic, _ = prepare(rows, {"type": "balance", "rows": 7, "column": "topic"}, folder=tmp_path)
    assert Counter(meta_of(row)["topic"] for row in by_topic) == {0: 7, 1: 7}
    with pytest.raises(StepError, match=r"row 1: there is no column 'colour'"):
        prepare(rows, {"type": "balance", "rows": 7, "column": "colour"}, folder=tmp_path)


# --- splits


def split(rows: list[Entry], step: dict[str, Any], folder: Path) -> dict[str, list[Entry]]:
    step = {"type": "split", **step}
    return {
        part: prepare(rows, step, folder=folder, part=part)[0] for part in step.get("parts", {"train": 0, "test": 0})
    }


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"parts": {"train": 0.8, "validation": 0.1, "test": 0.1}},
        {"by": "stratified", "column": "label"},
        {"by": "group", "column": "user"},
        {"by": "time", "column": "at"},
    ],
)
def test_a_split_gives_every_row_to_one_part(step: dict[str, Any], tmp_path: Path) -> None:
    rows = numbered(
        1000, label=lambda n: f"label {n % 7}", user=lambda n: n % 97, at=lambda n: f"2026-01-{1 + n % 28:02}"
    )
    parts = split(rows, step, tmp_path)
    numbers = [row.number for part in parts.values() for row in part]
    assert sorted(numbers) == list(range(1, 1001))
    for part, share in step.get("parts", {"train": 0.9, "test": 0.1}).items():
        assert abs(len(parts[part]) - share * 1000) <= 25


def test_a_random_split_is_exact_and_keeps_equal_rows_together(tmp_path: Path) -> None:
    parts = split(numbered(1000), {}, tmp_path)
    assert [len(rows) for rows in parts.values()] == [900, 100]
    parts = split(numbered(50) * 3, {}, tmp_path)
    assert not {row.hash for row in parts["train"]} & {row.hash for row in parts["test"]}


def test_a_stratified_split_has_every_label_everywhere(tmp_path: Path) -> None:
    rows = pairs(*((f"question {n}", "rare" if n % 50 == 0 else "often") for n in range(1000)))
    parts = split(rows, {"by": "stratified"}, tmp_path)
    assert Counter(row.row.completion for row in parts["test"]) == {"often": 98, "rare": 2}  # type: ignore[union-attr]
    with pytest.raises(StepError, match=r"100 of 100 rows have the answer to themselves"):
        split(numbered(100), {"by": "stratified"}, tmp_path)


def test_a_split_by_group_keeps_groups_together(tmp_path: Path) -> None:
    parts = split(numbered(500, user=lambda n: f"user {n % 20}"), {"by": "group", "column": "user"}, tmp_path)
    users = [{meta_of(row)["user"] for row in part} for part in parts.values()]
    assert not users[0] & users[1] and len(parts["test"]) == 50
    with pytest.raises(StepError, match=r"column: row 1: there is no column 'usr' beside it \(found: user\)"):
        split(numbered(5, user=str), {"by": "group", "column": "usr"}, tmp_path)


def test_the_order_of_parts_survives_a_database_that_sorts_names(tmp_path: Path) -> None:
    for given in ({"train": 0.9, "b": 0.05, "a": 0.05}, {"b": 0.1, "train": 0.9}):
        step = parse([{"type": "split", "parts": given}])[0]
        stored = json.loads(json.dumps(step.as_json(), sort_keys=True))  # as PostgreSQL would
        assert parse([stored])[0].parts() == list(given)
    others = {name: numbered(9) for name in ("a:1", "b:1")}
    orders = ({"a:1": 1.0, "b:1": 1.0}, {"b:1": 1.0, "a:1": 1.0})
    made = [prepare(numbered(9), {"type": "mix", "data": data}, folder=tmp_path, others=others)[0] for data in orders]
    assert [row.meta for row in made[0]] == [row.meta for row in made[1]]
    with pytest.raises(StepErrors, match="Two parts have the same name"):
        parse([{"type": "split", "parts": [["a", 0.5], ["a", 0.5]]}])


def test_a_split_by_time_learns_from_the_past(tmp_path: Path) -> None:
    rows = numbered(100, at=lambda n: f"2026-01-{1 + (n * 37) % 28:02}T10:00:00+01:00")
    parts = split(rows, {"by": "time", "column": "at"}, tmp_path)
    times = [[meta_of(row)["at"] for row in part] for part in parts.values()]
    assert max(times[0]) < min(times[1]) and parts["test"]
    with pytest.raises(StepError, match="'yesterday' is no time"):
        split(numbered(2, at=lambda n: "yesterday"), {"by": "time", "column": "at"}, tmp_path)


def test_synthetic_rows_never_reach_what_is_held_out(tmp_path: Path) -> None:
    steps = [{"type": "typos", "rate": 0.2}, {"type": "split", "parts": {"train": 0.7, "test": 0.3}}]
    parts = {part: prepare(numbered(200), *steps, folder=tmp_path, part=part)[0] for part in ("train", "test")}
    marks = [meta_of(row).get("synthetic") for row in parts["train"]]
    assert not any(meta_of(row).get("synthetic") for row in parts["test"]) and len(parts["test"]) == 60
    copies = [mark["of"] for mark in marks if mark]
    assert len(copies) > 100 and not set(copies) & {row.hash for row in parts["test"]}
    late = [steps[1], steps[0]]
    assert len(prepare(numbered(200), *late, folder=tmp_path, part="test")[0]) == 60
    assert len(prepare(numbered(200), *late, folder=tmp_path, part="train")[0]) > 240


def test_many_short_labels_have_their_share_and_are_all_learned(tmp_path: Path) -> None:
    """Labels of one to four rows: rounded each by itself, none would have a row among the tenth that is held out."""
    rows = pairs(*((f"question {n} {copy}", f"label {n}") for n in range(2000) for copy in range(1 + n % 4)))
    parts = split(rows, {"by": "stratified", "parts": {"train": 0.8, "valid": 0.1, "test": 0.1}}, tmp_path)
    labels = {part: Counter(label for _, label in of(found)) for part, found in parts.items()}
    assert len(labels["train"]) == 2000, "what is only held out can't be learned"
    assert all(n % 4 for part in ("valid", "test") for n in (int(label.split()[1]) for label in labels[part]))
    assert [len(found) for found in parts.values()] == [500 + 3600, 450, 450]
    assert max(labels["valid"].values()) == max(labels["test"].values()) == 1


TRAIN_TEST = {"train": 0.7, "test": 0.3}


def typed_twice(count: int) -> list[Entry]:
    return pairs(*((f"Where is MY card number {n}", f"LABEL {n % 4}") for n in range(count)))


@pytest.mark.parametrize("by", ["random", "stratified"])
@pytest.mark.parametrize("change", [{"type": "lowercase"}, {"type": "truncate", "characters": 12, "cut": "start"}])
def test_copies_stay_beside_rows_that_were_changed_after_them(by: str, change: Any, tmp_path: Path) -> None:
    """Also over versions: the first hash is stored. The number in the prompt says which rows belong together."""
    noise = {"type": "typos", "rate": 0.5, "part": "answer"}  # the copies have labels of their own
    first, _ = prepare(typed_twice(200), noise, folder=tmp_path)
    with RowsFile(tmp_path / FILE) as file:
        for made in prepare(first, change, folder=tmp_path)[0]:
            file.add(made)
    steps = [{"type": "shuffle"}, {"type": "split", "parts": TRAIN_TEST, "by": by}]
    parts = {part: prepare(entries(tmp_path), *steps, folder=tmp_path, part=part)[0] for part in TRAIN_TEST}
    (tmp_path / FILE).unlink()
    copies = [row for row in parts["train"] if meta_of(row)]
    held_out = {prompt for prompt, _ in of(parts["test"])}
    assert len(parts["test"]) == 60 and len(copies) > 100 and not any(meta_of(row) for row in parts["test"])
    assert not {prompt for prompt, _ in of(copies)} & held_out


def test_rows_that_became_equal_stay_together_with_their_copies(tmp_path: Path) -> None:
    rows = pairs(*((case(f"question {n}"), "a") for n in range(100) for case in (str.lower, str.upper, str.title)))
    steps = [{"type": "typos", "rate": 0.4, "part": "answer"}, {"type": "replace", "find": "a", "replacement": "b"}]
    made, _ = prepare(rows, *steps, {"type": "lowercase", "part": "prompt"}, folder=tmp_path)
    parts = split(made, {"parts": TRAIN_TEST}, tmp_path)
    questions = [{prompt for prompt, _ in of(part)} for part in parts.values()]
    assert not questions[0] & questions[1] and len(parts["test"]) == 90


def test_rows_made_from_documents_are_divided_by_document(tmp_path: Path) -> None:
    rows = [
        row._replace(meta=json.dumps({"synthetic": {"by": "documents", "of": f"{number % 10:064}"}}))
        for number, row in enumerate(numbered(300))
    ]
    parts = split(rows, {}, tmp_path)
    documents = [{meta_of(row)["synthetic"]["of"] for row in part} for part in parts.values()]
    assert [len(part) for part in parts.values()] == [270, 30] and not documents[0] & documents[1]
    _, preparation = prepare(rows, {"type": "split"}, folder=tmp_path, part="train")
    assert preparation.tallies[0].why == {"it goes to test": 30}
    two = split([row for number, row in enumerate(rows) if number % 10 < 2], {}, tmp_path)
    assert [len(part) for part in two.values()] == [30, 30]
    one = split([row for number, row in enumerate(rows) if number % 10 < 1], {}, tmp_path)
    assert [len(part) for part in one.values()] == [30, 0]


@pytest.mark.parametrize("by", ["group", "time"])
def test_copies_of_held_out_rows_are_left_out_whatever_column_they_have(by: str, tmp_path: Path) -> None:
    rows = numbered(20, at=lambda n: n)
    copies = [
        row._replace(hash=f"{number:064x}", meta=json.dumps({"at": 0, "synthetic": {"by": "typos", "of": row.hash}}))
        for number, row in enumerate(rows)
    ]
    parts = split([*rows, *copies], {"by": by, "column": "at", "parts": {"train": 0.5, "test": 0.5}}, tmp_path)
    kept = {meta_of(row)["synthetic"]["of"] for row in parts["train"] if "synthetic" in meta_of(row)}
    assert kept == {row.hash for row in parts["train"] if "synthetic" not in meta_of(row)} and kept
    assert parts["test"] and not any("synthetic" in meta_of(row) for row in parts["test"])


# --- other kinds


@pytest.mark.parametrize(
    ("kind", "to", "made"),
    [
        ("completion", "chat", ["  Where is my CARD?|card_arrival"]),
        ("chat", "completion", ["System: Be kind\n\nUser: Hello, I am anna@example.com|Hi Anna"]),
        ("chat", "prompt", ["Be kind|Hello, I am anna@example.com"]),
        ("preference", "chat", ["Where is my card?|It is on its way."]),
        ("preference", "unpaired", ["Where is my card?|It is on its way.", "Where is my card?|Dunno"]),
        ("preference", "completion", ["Where is my card?|It is on its way."]),
        ("unpaired", "chat", []),
        ("unpaired", "prompt", ["Where is my card?"]),
        ("completion", "text", ["  Where is my CARD?\n\ncard_arrival"]),
        ("text", "prompt", ["Once upon a time there was a card."]),
    ],
)
def test_kinds_are_converted(kind: str, to: str, made: list[str], tmp_path: Path) -> None:
    found, _ = prepare([entry(KINDS[kind])], {"type": "convert", "to": to}, folder=tmp_path)
    assert ["|".join(part.text for part in row.texts) for row in found] == made
    assert all(row.row.kind == to for row in found)


def test_edits_become_pairs(tmp_path: Path) -> None:
    rows = pairs(
        ("q", "better", {"original": "worse", "id": 1}), ("q", "same", {"original": "same "}), ("q", "untouched")
    )
    made, preparation = prepare(rows, {"type": "edits_to_pairs", "column": "original"}, folder=tmp_path)
    assert len(made) == 1 and meta_of(made[0]) == {"id": 1}
    row = json.loads(made[0].data)
    assert [row[name][0]["content"] for name in ("prompt", "chosen", "rejected")] == ["q", "better", "worse"]
    assert preparation.tallies[0].why == {"both versions are the same": 1, "there is no other version": 1}
    turned = {"type": "edits_to_pairs", "column": "original", "holds": "edited"}
    row = json.loads(prepare(rows, turned, folder=tmp_path)[0][0].data)
    assert row["chosen"][0]["content"] == "worse"
    with pytest.raises(StepError, match="row 3: there is no column 'original'"):
        prepare(rows, {**turned, "missing": "fail"}, folder=tmp_path)


def test_system_prompts(tmp_path: Path) -> None:
    rows = [entry(KINDS["chat"]), entry({"kind": "chat", "messages": CHAT[1:]}, 2)]

    def systems(**step: Any) -> list[str]:
        made, _ = prepare(rows, {"type": "system_prompt", **step}, folder=tmp_path)
        return [row.texts[0].text for row in made]

    assert systems(text="Be brief") == ["Be kind", "Be brief"]
    assert systems(text="Be brief", mode="replace") == ["Be brief", "Be brief"]
    assert systems(mode="remove") == ["Hello, I am anna@example.com"] * 2


def test_the_last_turns_begin_with_the_user(tmp_path: Path) -> None:
    talk = [{"role": role, "content": f"{role} {n}"} for n in range(3) for role in ("user", "assistant")]
    row = entry({"kind": "chat", "messages": [CHAT[0], *talk]})
    made, _ = prepare([row], {"type": "truncate", "turns": 3}, folder=tmp_path)
    assert [part.text for part in made[0].texts] == ["Be kind", "user 2", "assistant 2"]


@pytest.mark.parametrize("step", [{"type": "typos", "rate": 0.3, "copies": 2}, {"type": "casing", "copies": 2}])
def test_noise_makes_marked_copies_of_the_prompt_only(step: dict[str, Any], tmp_path: Path) -> None:
    rows = pairs(("Where is my new card, please?", "card_arrival"), ("12 34", "digits"))
    made, preparation = prepare(rows, step, folder=tmp_path)
    copies = [row for row in made if meta_of(row)]
    assert 1 <= len(copies) <= 2 and preparation.tallies[0].added == len(copies)
    for copy in copies:
        assert copy.row.completion == "card_arrival" and copy.row.prompt != rows[0].row.prompt  # type: ignore[union-attr]
        assert meta_of(copy) == {"synthetic": {"by": step["type"], "of": rows[0].hash}}
    assert of(row for row in made if not meta_of(row)) == of(rows)


def test_an_observer_sees_what_becomes_of_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    class Remember(Observer):
        def dropped(self, step: Step, entry: Entry, why: str) -> None:
            seen.append((step.number, entry.number, why))

        def assigned(self, step: Step, entry: Entry, part: str) -> None:
            seen.append((step.number, entry.number, part))

    steps = parse([{"type": "filter", "condition": "number != 2"}, {"type": "split", "parts": {"a": 0.5, "b": 0.5}}])
    kept = list(Preparation(steps, folder=tmp_path, observer=Remember()).rows(numbered(3)))
    assert [row.number for row in kept] == [1, 3]
    assert (1, 2, "the condition is false") in seen and {(s, n) for s, n, _ in seen if s == 2} == {(2, 1), (2, 3)}
