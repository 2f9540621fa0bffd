"""Which column is which part of a row: recognised without doubt, or said by the user. Pure.

It is decided once per file; a row that does not fit is a bad line, and columns without a part become `meta`.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets_app.reading import excerpt
from datasets_app.shapes import PARTS, SHAPES, Fields, Parts, Shape, listed
from project.contracts.rows import RowKind
from project.contracts.runs import UserError

_CONVERSATIONS = ("messages", "conversations", "conversation")
# Other names that leave no doubt: OpenAI's preference format, LLaMA-Factory's thumbs, OpenAI's older tools.
_ALIASES = {
    "preferred_output": "chosen",
    "non_preferred_output": "rejected",
    "kto_tag": "label",
    "functions": "tools",
    "system_prompt": "system",
}
_PROMPTS = ("prompt", "question", "query", "instruction", "input", "user", "utterance", "sentence", "text", "article")
_ANSWERS = ("completion", "answer", "response", "output", "reply", "assistant", "label", "category", "intent", "class",
            "target", "summary", "translation")  # fmt: skip


class UnclearColumns(UserError):
    """Nobody can say what to learn from the columns. `suggestion` is a mapping to start from, possibly empty."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns, self.suggestion = list(columns), suggest(columns)
        say = json.dumps(self.suggestion, ensure_ascii=False) if self.suggestion else '{"prompt": …, "completion": …}'
        super().__init__(
            f"It is not clear what to learn from the columns {listed(columns)}.",
            hint=f"Say which column is what, for example columns={excerpt(say)}. Known without asking: messages; "
            "conversations; prompt and completion; input and output; instruction, input and output; prompt, chosen and "
            "rejected; prompt alone; text.",
            field="columns",
        )


@dataclass(frozen=True)
class Mapped:
    """A shape with the file's columns: what turns records into rows. `evidence` says why it is this one."""

    shape: Shape
    columns: Mapping[str, str]
    evidence: str = "as you said"

    def parts(self, fields: Fields) -> Parts:
        return Parts(fields, self.columns)


def recognise(columns: Sequence[str], first: Fields) -> Mapped:
    """The shape of a file by its columns' names (in any case) and its first record. Raises UnclearColumns.

    Only what leaves no doubt is taken: a `text` beside a `category` may be a classification or a text to learn.
    """
    names = {column.strip().lower(): column for column in reversed(columns)}
    found = {part: names[part] for part in PARTS if part in names}
    for alias, part in _ALIASES.items():
        if alias in names:
            found.setdefault(part, names[alias])
    found.pop("messages", None)
    if "input" in found and _holds_messages(first.get(found["input"])):
        found["prompt"] = found.pop("input")
    for name in _CONVERSATIONS:
        if name in names and isinstance(first.get(names[name]), list | str | dict):
            found.setdefault("messages", names[name])
    if "label" in found and not _is_truth(first.get(found["label"])):
        found.pop("label", None)
    if any(name in names for name in (*_ANSWERS, "prompt", "question", "query")):
        found.pop("text", None)
    found = _input_and_output(found)
    may_be_answered = any(name in names for name in (*_ANSWERS, "text"))
    for shape in SHAPES:
        if shape.required <= found.keys():
            if shape.kind is RowKind.PROMPT and may_be_answered:
                break
            wanted = shape.required | shape.optional
            mapped = {part: column for part, column in found.items() if part in wanted}
            return Mapped(shape, mapped, f"by the columns {listed(list(mapped.values()))}")
    raise UnclearColumns(columns)


def chosen(mapping: Mapping[str, str], columns: Sequence[str]) -> Mapped:
    """The shape a user asks for. Raises UserError for unknown parts, missing columns and parts that make no row."""
    for part, column in mapping.items():
        if part not in PARTS:
            raise UserError(
                f"'{excerpt(part, 60)}' is no part of a row.",
                hint=_near(part, list(PARTS)) or f"Known: {', '.join(PARTS)}.",
                field="columns",
            )
        if column not in columns:
            raise UserError(
                f"There is no column '{excerpt(column, 60)}' in the file (found: {listed(columns)}).",
                hint=_near(column, columns) or "Map a column that the file has.",
                field="columns",
            )
    parts = _input_and_output(mapping)
    for shape in SHAPES:
        if shape.required <= parts.keys() <= shape.required | shape.optional:
            return Mapped(shape, parts)
    raise UserError(
        f"The parts {', '.join(mapping)} make no row.",
        hint="Use messages; prompt and completion; instruction and output (and input); prompt, chosen and rejected; "
        "chosen and rejected; prompt, completion and label; prompt alone; or text. Add system and tools where there "
        "are any.",
        field="columns",
    )


def suggest(columns: Sequence[str]) -> dict[str, str]:
    """A mapping that may be meant, by the columns' names; of two columns the first is the prompt."""
    names = {column.strip().lower(): column for column in columns}
    prompt = next((names[name] for name in _PROMPTS if name in names), None)
    answer = next((names[name] for name in _ANSWERS if name in names and names[name] != prompt), None)
    if len(columns) == 2:
        rest = [column for column in columns if column not in (prompt, answer)]
        prompt = prompt or rest.pop(0)
        answer = answer or rest.pop(0)
    return {"prompt": prompt, "completion": answer} if prompt and answer else {}


def _input_and_output(parts: Mapping[str, str]) -> dict[str, str]:
    """Without an instruction, input and output are another name for prompt and completion."""
    if "instruction" in parts or not {"input", "output"} <= parts.keys() or {"prompt", "completion"} & parts.keys():
        return dict(parts)
    names = {"input": "prompt", "output": "completion"}
    return {names.get(part, part): column for part, column in parts.items()}


def _holds_messages(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("messages"), list))


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{excerpt(near[0], 60)}'?" if near else ""
