"""The known ways to write a row, and how each becomes a canonical one. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets_app.formats._strict_json import NotJson, kind_of, loads
from datasets_app.reading import excerpt
from project.contracts.rows import RowKind

Fields = Mapping[str, Any]

# Part of a row -> what it is for. These are the names a user maps columns to.
PARTS: dict[str, str] = {
    "messages": "a conversation: a list of messages with role and content",
    "prompt": "what the model is given",
    "completion": "the answer it should give",
    "instruction": "the task, as in Alpaca",
    "input": "what the task is about, as in Alpaca; may be empty",
    "output": "the answer, as in Alpaca",
    "history": "earlier turns as [[question, answer], …]",
    "system": "the system prompt; may be empty",
    "chosen": "the better answer of a pair",
    "rejected": "the worse answer of a pair",
    "label": "true for a good answer, false for a bad one",
    "text": "plain text to go on learning from",
}
OPTIONAL = frozenset({"system", "input", "history"})
_ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "observation": "tool",
}


class BadRow(ValueError):
    """Why a record is no row of its shape, as the end of a sentence."""


@dataclass(frozen=True)
class Shape:
    """One way to write rows: the parts it needs, those it may have, and the row it makes of them."""

    name: str
    label: str
    kind: RowKind
    required: frozenset[str]
    optional: frozenset[str]
    convert: Callable[["Parts"], dict[str, Any]]


@dataclass
class Parts:
    """The parts of one record, read with their column's name in every complaint."""

    fields: Fields
    columns: Mapping[str, str]
    as_text: list[str] = field(default_factory=list)  # columns whose numbers were taken as texts

    def text(self, part: str) -> str:
        """The text of a part. Missing and null are refused, except where the part is optional. Raises BadRow."""
        column = self.columns.get(part)
        if column is None:
            return ""
        value = self.fields.get(column)
        if value is None:
            if part in OPTIONAL:
                return ""
            raise BadRow(missing(column, self.fields) if column not in self.fields else f"'{column}' is null.")
        return self._text(value, column)

    def _text(self, value: Any, column: str, where: str = "") -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.as_text.append(column)
            return json.dumps(value)
        where = where or f"'{column}'"
        raise BadRow(f"{where} has to be a text, it is {kind_of(value)}.")

    def messages(self, part: str, *, role: str = "user") -> list[dict[str, Any]]:
        """The messages of a part; a plain text is one message of `role`. Raises BadRow."""
        column = self.columns[part]
        value = self.fields.get(column)
        if value is None:
            raise BadRow(missing(column, self.fields) if column not in self.fields else f"'{column}' is null.")
        if isinstance(value, str):
            if role != "any":
                return [{"role": role, "content": value}]
            value = _json_in_text(value, column)
        if isinstance(value, dict) and role != "any":
            value = [value]
        if not isinstance(value, list):
            raise BadRow(f"'{column}' has to be a list of messages, it is {kind_of(value)}.")
        if not value:
            raise BadRow(f"'{column}' holds no message.")
        return [self._message(message, column, number) for number, message in enumerate(value, 1)]

    def _message(self, message: Any, column: str, number: int) -> dict[str, Any]:
        where = f"message {number} of '{column}'"
        if not isinstance(message, dict):
            raise BadRow(f"{where} has to be an object with role and content, it is {kind_of(message)}.")
        for key in ("tool_calls", "function_call"):
            if message.get(key):
                raise BadRow(f"{where} has {key}; conversations with tool calls can't be imported yet.")
        role = message.get("role", message.get("from"))
        if role is None:
            raise BadRow(f"{where} has no role.")
        known = _ROLES.get(role.lower()) if isinstance(role, str) else None
        if known is None:
            raise BadRow(f"{where} has the role {json.dumps(role)[:40]}; use system, user, assistant or tool.")
        result: dict[str, Any] = {"role": known, "content": self._content(message, column, where)}
        if message.get("weight") is not None:
            if message["weight"] not in (0, 1) or isinstance(message["weight"], bool):
                raise BadRow(f"{where} has the weight {json.dumps(message['weight'])[:40]}; use 0 or 1.")
            result["weight"] = int(message["weight"])
        return result

    def _content(self, message: Fields, column: str, where: str) -> str:
        value = message.get("content", message.get("value"))
        if value is None:
            raise BadRow(f"{where} has no content.")
        if isinstance(value, list):  # OpenAI's content parts
            texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
            if len(texts) != len(value) or not all(isinstance(text, str) for text in texts):
                raise BadRow(f"{where} has content that is not text (a picture, for example).")
            return "".join(map(str, texts))
        return self._text(value, column, where)

    def truth(self, part: str) -> bool:
        """A label: true or false, 1 or 0, in JSON or as a word. Raises BadRow."""
        column = self.columns[part]
        value = self.fields.get(column)
        word = value.strip().lower() if isinstance(value, str) else value
        if word in ("true", "1", "false", "0") or word in (0, 1):  # also JSON's true and false
            return word in ("true", "1") or word == 1
        raise BadRow(f"'{column}' has to be true or false, it is {json.dumps(value)[:40]}.")

    def meta(self) -> dict[str, Any]:
        """What has no part in the row."""
        used = set(self.columns.values())
        return {name: value for name, value in self.fields.items() if name not in used}


def missing(column: str, fields: Fields) -> str:
    """'the column 'answer' is missing (found: question, label).'"""
    return f"the column '{column}' is missing (found: {listed(fields)})."


def listed(columns: Sequence[str] | Fields) -> str:
    """The first columns' names, for a sentence."""
    names = [excerpt(str(name), 40) for name in columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "nothing"


def _json_in_text(text: str, column: str) -> Any:
    """A CSV has conversations as JSON in a text."""
    try:
        return loads(text)
    except NotJson as error:
        raise BadRow(f"'{column}' has to be a list of messages: {error}") from None


# --- what each makes of its parts


def _chat(parts: Parts) -> dict[str, Any]:
    messages = parts.messages("messages", role="any")
    if (system := parts.text("system")) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return {"kind": "chat", "messages": messages}


def _completion(parts: Parts) -> dict[str, Any]:
    return {"kind": "completion", "prompt": parts.text("prompt"), "completion": parts.text("completion")}


def _alpaca_prompt(parts: Parts) -> str:
    """Instruction, then what it is about on lines of its own."""
    about = parts.text("input")
    return f"{parts.text('instruction')}\n\n{about}" if about else parts.text("instruction")


def _alpaca(parts: Parts) -> dict[str, Any]:
    return {"kind": "completion", "prompt": _alpaca_prompt(parts), "completion": parts.text("output")}


def _turns(parts: Parts) -> dict[str, Any]:
    """Prompt and answer with a system prompt or earlier turns: a conversation."""
    alpaca = "instruction" in parts.columns
    prompt = _alpaca_prompt(parts) if alpaca else parts.text("prompt")
    answer = parts.text("output" if alpaca else "completion")
    messages = [{"role": "system", "content": system}] if (system := parts.text("system")) else []
    for question, reply in _history(parts):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"kind": "chat", "messages": messages}


def _history(parts: Parts) -> list[list[str]]:
    value = parts.fields.get(parts.columns["history"]) if "history" in parts.columns else None
    value = [] if value is None or value == "" else value
    pairs = isinstance(value, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in value
    )
    if not pairs:
        raise BadRow(f"'{parts.columns['history']}' has to be a list of [question, answer].")
    return list(value)


def _prompt(parts: Parts) -> list[dict[str, Any]]:
    if "messages" in parts.columns:
        return parts.messages("messages", role="any")
    if "instruction" in parts.columns:
        return [{"role": "user", "content": _alpaca_prompt(parts)}]
    return parts.messages("prompt", role="user")


def _preference(parts: Parts) -> dict[str, Any]:
    prompt = _prompt(parts)
    if system := parts.text("system"):
        prompt.insert(0, {"role": "system", "content": system})
    answers = {part: parts.messages(part, role="assistant") for part in ("chosen", "rejected")}
    for part, messages in answers.items():
        if messages[0]["role"] != "assistant":
            column = parts.columns[part]
            raise BadRow(f"'{column}' begins with the role {messages[0]['role']}; only the answer belongs there.")
    return {"kind": "preference", "prompt": prompt, **answers}


def _unpaired(parts: Parts) -> dict[str, Any]:
    """An answer with a thumb. In a conversation the last turn is the answer."""
    if "messages" in parts.columns:
        messages = parts.messages("messages", role="any")
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow(f"the last message of '{parts.columns['messages']}' has to be the assistant's.")
        prompt, completion = messages[:-1], messages[-1:]
    else:
        prompt, completion = _prompt(parts), parts.messages("completion", role="assistant")
    return {"kind": "unpaired", "prompt": prompt, "completion": completion, "label": parts.truth("label")}


def _text(parts: Parts) -> dict[str, Any]:
    return {"kind": "text", "text": parts.text("text")}


def _shape(parts: str, label: str, kind: RowKind, convert: Callable[[Parts], dict[str, Any]]) -> Shape:
    """`parts` are the required ones, the optional ones in brackets."""
    words = parts.split()
    optional = frozenset(word.strip("[]") for word in words if word.startswith("["))
    required = frozenset(words) - {f"[{word}]" for word in optional}
    return Shape(" + ".join(word for word in words if word in required), label, kind, required, optional, convert)


_PAIRS = RowKind.PREFERENCE
# The most demanding first: recognition takes the first whose required parts are there.
SHAPES: tuple[Shape, ...] = (
    _shape("messages chosen rejected [system]", "conversations with a better and a worse answer", _PAIRS, _preference),
    _shape("messages label", "conversations with a good or bad label", RowKind.UNPAIRED, _unpaired),
    _shape("messages [system]", "conversations", RowKind.CHAT, _chat),
    _shape("instruction chosen rejected [input] [system]", "instructions with two answers", _PAIRS, _preference),
    _shape("prompt chosen rejected [system]", "prompts with a better and a worse answer", _PAIRS, _preference),
    _shape("prompt completion label", "answers with a good or bad label", RowKind.UNPAIRED, _unpaired),
    _shape("instruction output system [input] [history]", "instructions with a system prompt", RowKind.CHAT, _turns),
    _shape("instruction output history [input]", "instructions with earlier turns", RowKind.CHAT, _turns),
    _shape("instruction output [input]", "instructions", RowKind.COMPLETION, _alpaca),
    _shape("prompt completion system [history]", "prompts with a system prompt", RowKind.CHAT, _turns),
    _shape("prompt completion history", "prompts with earlier turns", RowKind.CHAT, _turns),
    _shape("prompt completion", "prompts and completions", RowKind.COMPLETION, _completion),
    _shape("text", "plain text", RowKind.TEXT, _text),
)
