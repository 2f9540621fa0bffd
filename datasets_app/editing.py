"""Reading and changing one row on its way through the preparation steps. Pure."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from datasets_app.expressions import BadValue
from datasets_app.importing import Entry
from datasets_app.shapes import BadRow
from datasets_app.storage import SYNTHETIC
from project.contracts.chat import Message
from project.contracts.rows import (
    ChatRow,
    CompletionRow,
    PreferenceRow,
    PromptRow,
    Row,
    RowKind,
    TextRow,
    UnpairedRow,
    row_bytes,
)

Part = Literal["all", "prompt", "answer", "system"]  # which texts of a row a step works on
_META = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)

Change = Callable[[str], str]
LONGEST = 8 * 1024**2  # bytes of a row, and characters of its texts, after a step; a row that was longer may stay so


def with_row(entry: Entry, row: Row) -> Entry:
    """The entry with another row, which remembers its first hash. Raises BadRow: half a character, too long."""
    if row == entry.row:
        return entry
    try:
        data = row_bytes(row)
    except UnicodeEncodeError:
        raise BadRow("it would hold half a character.") from None
    if len(data) > LONGEST and len(data) > len(entry.data.encode()):
        raise too_long()
    digest = hashlib.sha256(data).hexdigest()
    first = entry.origin or entry.hash
    return entry._replace(row=row, texts=None, data=data.decode(), hash=digest, origin=first)


def too_long() -> BadRow:
    return BadRow(f"it would have more than {LONGEST // 1024**2} MiB.")


def with_meta(entry: Entry, meta: Mapping[str, Any]) -> Entry:
    """The entry with other columns beside the row."""
    return entry._replace(meta=_META.encode(dict(meta)))


def meta_of(entry: Entry) -> dict[str, Any]:
    return dict(json.loads(entry.meta))


def synthetic(entry: Entry, origin: Entry, by: str) -> Entry:
    """The entry marked as written by a machine (`by`) from `origin`, by whose side it stays when data is split."""
    mark = {"by": by, "of": origin_of(origin)}
    return with_meta(entry, {**meta_of(entry), SYNTHETIC: mark})


def origin_of(entry: Entry) -> str:
    """The hash of the row that a synthetic row was made from; of any other row its own, before steps changed it."""
    return made_from(entry) or entry.origin or entry.hash


def made_from(entry: Entry) -> str:
    """The hash of the row that a synthetic row was made from; empty for any other row, and where it is unknown."""
    if f'"{SYNTHETIC}"' not in entry.meta:
        return ""
    mark = meta_of(entry).get(SYNTHETIC)
    origin = mark.get("of") if isinstance(mark, dict) else None
    return origin if isinstance(origin, str) else ""


# --- the texts of a row


def change_texts(entry: Entry, change: Change, part: Part = "all") -> Entry:
    """The entry with `change` done to the texts of `part`. Tool calls stay as they are.

    Raises BadRow for half a character, and as soon as the changed texts are too long for a row.
    """
    left = max(LONGEST, len(entry.data))

    def bounded(text: str) -> str:
        nonlocal left
        changed = change(text)
        left -= len(changed)
        if left < 0:
            raise too_long()
        return changed

    return with_row(entry, _changed(entry.row, bounded, part))


def _changed(row: Row, change: Change, part: Part) -> Row:
    def if_in(*parts: Part) -> Change:
        return change if part == "all" or part in parts else _same

    match row:
        case TextRow():
            return row.model_copy(update={"text": if_in("answer")(row.text)})
        case CompletionRow():
            update = {"prompt": if_in("prompt")(row.prompt), "completion": if_in("answer")(row.completion)}
            return row.model_copy(update=update)
        case ChatRow():
            return row.model_copy(update={"messages": _messages(row.messages, if_in, "answer")})
        case PreferenceRow():
            answers = {name: _messages(getattr(row, name), if_in, "answer") for name in ("chosen", "rejected")}
            return row.model_copy(update={"prompt": _messages(row.prompt, if_in, "prompt"), **answers})
        case UnpairedRow():
            completion = _messages(row.completion, if_in, "answer")
            return row.model_copy(update={"prompt": _messages(row.prompt, if_in, "prompt"), "completion": completion})
        case PromptRow():
            return row.model_copy(update={"prompt": _messages(row.prompt, if_in, "prompt")})


def _same(text: str) -> str:
    return text


def _messages(
    messages: Sequence[Message], if_in: Callable[..., Change], assistant: Literal["prompt", "answer"]
) -> tuple[Message, ...]:
    """`assistant` is the part that an assistant's turn belongs to."""
    parts: dict[str, Part] = {"system": "system", "user": "prompt", "tool": "prompt", "assistant": assistant}
    changed = []
    for message in messages:
        content = if_in(parts[message.role])(message.content)
        changed.append(message if content == message.content else message.model_copy(update={"content": content}))
    return tuple(changed)


def text_of(entry: Entry, part: Part) -> str:
    """The texts of one part of a row, one below the other."""
    return str(values_of(entry)[{"all": "text"}.get(part, part)])


# --- what conditions and templates ask about


class RowValues(Mapping[str, Any]):
    """What a row answers to the names of `expressions.NAMES`, computed when asked. Raises BadValue for one it lacks."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = _VALUES[name](self._entry)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_VALUES)

    def __len__(self) -> int:
        return len(_VALUES)


def values_of(entry: Entry) -> RowValues:
    return RowValues(entry)


def _contents(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _all_messages(value: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """All messages of a row as JSON; of a pair with the better answer. A row of plain texts has none."""
    match value["kind"]:
        case RowKind.CHAT:
            return list(value["messages"])
        case RowKind.PREFERENCE:
            return [*value["prompt"], *value["chosen"]]
        case RowKind.UNPAIRED:
            return [*value["prompt"], *value["completion"]]
        case RowKind.PROMPT:
            return list(value["prompt"])
        case _:
            return []


def _prompt(entry: Entry) -> str:
    value = entry.value
    match value["kind"]:
        case RowKind.COMPLETION:
            return str(value["prompt"])
        case RowKind.CHAT:
            return _contents([m for m in value["messages"] if m["role"] in ("user", "tool")])
        case RowKind.TEXT:
            return ""
        case _:
            return _contents([m for m in value["prompt"] if m["role"] != "system"])


def _answer(entry: Entry) -> str:
    value = entry.value
    match value["kind"]:
        case RowKind.PREFERENCE:
            return _contents(value["chosen"])
        case RowKind.UNPAIRED:
            return _contents(value["completion"])
        case RowKind.PROMPT:
            return ""
        case _:
            return next((part.text for part in reversed(entry.texts) if part.learned), "")


def _of_pairs(name: str) -> Callable[[Entry], str]:
    def read(entry: Entry) -> str:
        if entry.kind != RowKind.PREFERENCE:
            raise BadValue(f"a {entry.kind} row has no '{name}'; only preference rows do.")
        return _contents(entry.value[name])

    return read


def _label(entry: Entry) -> bool:
    if entry.kind != RowKind.UNPAIRED:
        raise BadValue(f"a {entry.kind} row has no 'label'. For a column of that name write meta.label.")
    return bool(entry.value["label"])


_VALUES: dict[str, Callable[[Entry], Any]] = {
    "length": lambda entry: sum(len(part.text) for part in entry.texts),
    "text": lambda entry: "\n".join(part.text for part in entry.texts),
    "prompt": _prompt,
    "answer": _answer,
    "completion": _answer,
    "system": lambda entry: _contents([m for m in _all_messages(entry.value) if m["role"] == "system"]),
    "chosen": _of_pairs("chosen"),
    "rejected": _of_pairs("rejected"),
    "label": _label,
    "turns": lambda entry: len(entry.texts),
    "roles": lambda entry: [message["role"] for message in _all_messages(entry.value)],
    "number": lambda entry: entry.number,
    "kind": lambda entry: entry.kind.value,
    "synthetic": lambda entry: f'"{SYNTHETIC}"' in entry.meta and bool(meta_of(entry).get(SYNTHETIC)),
    "meta": meta_of,
}
