"""The known ways to write a row, and how each becomes a canonical one. Pure."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets_app import tools
from datasets_app.formats._strict_json import NotJson, kind_of, loads
from datasets_app.reading import excerpt
from datasets_app.tools import BadRow as BadRow
from project.contracts.rows import RowKind

Fields = Mapping[str, Any]

# Part of a row -> what it is for. These are the names a user maps columns to.
PARTS: dict[str, str] = {
    "messages": "a conversation: a list of messages with role and content",
    "prompt": "what the model is given: a text, or a list of messages",
    "completion": "the answer it should give",
    "instruction": "the task, as in Alpaca",
    "input": "what the task is about, as in Alpaca; may be empty",
    "output": "the answer, as in Alpaca",
    "history": "earlier turns as [[question, answer], …]",
    "system": "the system prompt; may be empty",
    "tools": "descriptions of functions the model may call, as JSON; may be empty",
    "chosen": "the better answer of a pair, or the whole conversation with it",
    "rejected": "the worse answer of a pair, or the whole conversation with it",
    "label": "true for a good answer, false for a bad one",
    "text": "plain text to go on learning from",
}
OPTIONAL = frozenset({"system", "input", "history", "tools"})
Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {
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
    "function": "tool",
    "function_call": "assistant",  # LLaMA-Factory's: the call is JSON in the value
}
_KNOWN_KEYS = frozenset(
    {"role", "content", "from", "value", "weight", "name", "tool_calls", "tool_call_id", "function_call"}
)
_CANONICAL_ROLES = frozenset({"system", "user", "assistant", "tool"})


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
    left_out: set[str] = field(default_factory=set)  # what messages say besides, which no row keeps

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
            value = json_in_text(value, column, "a list of messages")
        if isinstance(value, dict):
            value = _list_of(value, column, single=role != "any")
        if not isinstance(value, list):
            raise BadRow(f"'{column}' has to be a list of messages, it is {kind_of(value)}.")
        if not value:
            raise BadRow(f"'{column}' holds no message.")
        return [
            message if _is_canonical(message) else self._message(message, column, number)
            for number, message in enumerate(value, 1)
        ]

    def _message(self, message: Any, column: str, number: int) -> dict[str, Any]:
        where = f"message {number} of '{column}'"
        if not isinstance(message, dict):
            raise BadRow(f"{where} has to be an object with role and content, it is {kind_of(message)}.")
        role = message.get("role", message.get("from"))
        if role is None:
            raise BadRow(f"{where} has no role.")
        known = _ROLES.get(role.lower()) if isinstance(role, str) else None
        if known is None:
            raise BadRow(f"{where} has the role {json.dumps(role)[:40]}; use system, user, assistant or tool.")
        calls = tools.calls_of(message, where, known, as_value=role == "function_call")
        content = "" if calls and role == "function_call" else self._content(message, column, where, bool(calls))
        result: dict[str, Any] = {"role": known, "content": content}
        for name in ("name", "tool_call_id"):
            if isinstance(message.get(name), str):
                result[name] = message[name]
        if calls:
            result["tool_calls"] = calls
        self.left_out.update(key for key in message if key not in _KNOWN_KEYS and message[key] is not None)
        if message.get("weight") is not None:
            if message["weight"] not in (0, 1) or isinstance(message["weight"], bool):
                raise BadRow(f"{where} has the weight {json.dumps(message['weight'])[:40]}; use 0 or 1.")
            result["weight"] = int(message["weight"])
        return result

    def _content(self, message: Fields, column: str, where: str, may_be_null: bool) -> str:
        value = message.get("content", message.get("value"))
        if value is None:
            if may_be_null:
                return ""
            raise BadRow(f"{where} has no content.")
        if isinstance(value, list):  # OpenAI's content parts
            texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
            if len(texts) != len(value) or not all(isinstance(text, str) for text in texts):
                raise BadRow(f"{where} has content that is not text (a picture, for example).")
            return "".join(map(str, texts))
        return self._text(value, column, where)

    def tools(self) -> dict[str, Any]:
        """{"tools": [...]} where the row describes functions: in a column of its own, or within an OpenAI `input`."""
        column = self.columns.get("tools")
        value = self.fields.get(column) if column is not None else None
        if value is None and isinstance(inside := self.fields.get(self.columns.get("prompt", "")), dict):
            column, value = "tools", inside.get("tools")
        found = tools.descriptions(value, f"'{column}'")
        return {"tools": found} if found else {}

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
        if len(self.fields) == len(self.columns):  # a column is one part, and here none is left
            return {}
        used = set(self.columns.values())
        return {name: value for name, value in self.fields.items() if name not in used}


def missing(column: str, fields: Fields) -> str:
    """'the column 'answer' is missing (found: question, label).'"""
    return f"the column '{column}' is missing (found: {listed(fields)})."


def listed(columns: Sequence[str] | Fields) -> str:
    """The first columns' names, for a sentence."""
    names = [excerpt(str(name), 40) for name in columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "nothing"


def json_in_text(text: str, column: str, what: str) -> Any:
    """A CSV has conversations as JSON in a text. Raises BadRow."""
    try:
        return loads(text)
    except NotJson as error:
        raise BadRow(f"'{column}' has to be {what}: {error}") from None


def _is_canonical(message: Any) -> bool:
    """Is it a message as it is stored? True of nearly all, so it is asked first."""
    return (
        type(message) is dict
        and len(message) == 2
        and type(message.get("content")) is str
        and type(message.get("role")) is str
        and message["role"] in _CANONICAL_ROLES
    )


def _list_of(value: dict[str, Any], column: str, *, single: bool) -> Any:
    """The list of messages within an object: OpenAI's {"messages": […]}, or a list for each key, as Arrow has it."""
    if isinstance(value.get("messages"), list):
        return value["messages"]
    lists = [inner for inner in value.values() if isinstance(inner, list)]
    if lists and len(lists) == len(value) and {"role", "from"} & value.keys():
        if len({len(inner) for inner in lists}) != 1:
            raise BadRow(f"'{column}' has lists of different lengths.")
        return [dict(zip(value, items, strict=True)) for items in zip(*lists, strict=True)]
    return [value] if single else value


# --- what each makes of its parts


def _chat(parts: Parts) -> dict[str, Any]:
    messages = parts.messages("messages", role="any")
    if "system" in parts.columns and (system := parts.text("system")) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return {"kind": "chat", "messages": messages, **parts.tools()}


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
        prompt = parts.messages("messages", role="any")
    elif "instruction" in parts.columns:
        prompt = [{"role": "user", "content": _alpaca_prompt(parts)}]
    else:
        prompt = parts.messages("prompt", role="user")
    if (system := parts.text("system")) and prompt[0]["role"] != "system":
        prompt.insert(0, {"role": "system", "content": system})
    return prompt


def _prompts(parts: Parts) -> dict[str, Any]:
    return {"kind": "prompt", "prompt": _prompt(parts), **parts.tools()}


def _preference(parts: Parts) -> dict[str, Any]:
    """A prompt with two answers; an answer that repeats the prompt's turns begins behind them."""
    prompt = _prompt(parts)
    answers = {part: parts.messages(part, role="assistant") for part in ("chosen", "rejected")}
    talk = [message for message in prompt if message["role"] != "system"]
    for part, messages in answers.items():
        for repeated in (prompt, talk):
            if len(messages) > len(repeated) > 0 and messages[: len(repeated)] == repeated:
                answers[part] = messages[len(repeated) :]
                break
    return _pair(parts, prompt, answers)


def _whole_conversations(parts: Parts) -> dict[str, Any]:
    """Two conversations that are the same up to the answers: the common turns are the prompt."""
    chosen, rejected = (_conversation(parts, part) for part in ("chosen", "rejected"))
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    while same and chosen[same]["role"] != "assistant":
        same -= 1
    if not same:
        columns = parts.columns
        raise BadRow(
            f"'{columns['chosen']}' and '{columns['rejected']}' do not begin with the same turns, and there is no "
            "prompt beside them."
        )
    return _pair(parts, chosen[:same], {"chosen": chosen[same:], "rejected": rejected[same:]})


def _conversation(parts: Parts, part: str) -> list[dict[str, Any]]:
    """A list of messages, or one text in which Human and Assistant take turns (as in Anthropic's hh-rlhf)."""
    column = parts.columns[part]
    value = parts.fields.get(column)
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return parts.messages(part, role="any")
    pieces = _TURN.split(value)
    if len(pieces) < 3 or pieces[0].strip():
        raise BadRow(f"'{column}' is a text without a prompt beside it, and without 'Human:' and 'Assistant:'.")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": text.strip()} for who, text in zip(pieces[1::2], pieces[2::2], strict=True)]


_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


def _pair(parts: Parts, prompt: list[dict[str, Any]], answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    for part, messages in answers.items():
        if messages[0]["role"] != "assistant":
            column = parts.columns[part]
            raise BadRow(f"'{column}' begins with the role {messages[0]['role']}; only the answer belongs there.")
    return {"kind": "preference", "prompt": prompt, **answers, **parts.tools()}


def _unpaired(parts: Parts) -> dict[str, Any]:
    """An answer with a thumb. In a conversation the last turn is the answer."""
    if "messages" in parts.columns:
        messages = _prompt(parts)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow(f"the last message of '{parts.columns['messages']}' has to be the assistant's.")
        prompt, completion = messages[:-1], messages[-1:]
    else:
        prompt, completion = _prompt(parts), parts.messages("completion", role="assistant")
    return {
        "kind": "unpaired",
        "prompt": prompt,
        "completion": completion,
        "label": parts.truth("label"),
        **parts.tools(),
    }


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
    _shape("messages chosen rejected [system] [tools]", "conversations with a better and a worse answer", _PAIRS,
           _preference),
    _shape("messages label [system] [tools]", "conversations with a good or bad label", RowKind.UNPAIRED, _unpaired),
    _shape("messages [system] [tools]", "conversations", RowKind.CHAT, _chat),
    _shape("instruction chosen rejected [input] [system]", "instructions with two answers", _PAIRS, _preference),
    _shape("prompt chosen rejected [system] [tools]", "prompts with a better and a worse answer", _PAIRS, _preference),
    _shape("chosen rejected [tools]", "pairs of whole conversations", _PAIRS, _whole_conversations),
    _shape("prompt completion label [system] [tools]", "answers with a good or bad label", RowKind.UNPAIRED, _unpaired),
    _shape("instruction output system [input] [history]", "instructions with a system prompt", RowKind.CHAT, _turns),
    _shape("instruction output history [input]", "instructions with earlier turns", RowKind.CHAT, _turns),
    _shape("instruction output [input]", "instructions", RowKind.COMPLETION, _alpaca),
    _shape("prompt completion system [history]", "prompts with a system prompt", RowKind.CHAT, _turns),
    _shape("prompt completion history", "prompts with earlier turns", RowKind.CHAT, _turns),
    _shape("prompt completion", "prompts and completions", RowKind.COMPLETION, _completion),
    _shape("text", "plain text", RowKind.TEXT, _text),
    _shape("prompt [system] [tools]", "prompts only", RowKind.PROMPT, _prompts),
)  # fmt: skip
