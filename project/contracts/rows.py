"""Canonical rows: whatever people upload becomes one of these kinds, and training reads nothing else."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from project.contracts.canonical import canonical_json
from project.contracts.chat import Message


class RowKind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    PREFERENCE = "preference"
    UNPAIRED = "unpaired"
    PROMPT = "prompt"
    TEXT = "text"


# Descriptions of functions, as JSON Schema has them and chat templates take them.
Tools = tuple[dict[str, Any], ...]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChatRow(_Row):
    kind: Literal[RowKind.CHAT] = RowKind.CHAT
    messages: tuple[Message, ...] = Field(min_length=1)
    tools: Tools | None = Field(default=None, min_length=1)


class CompletionRow(_Row):
    kind: Literal[RowKind.COMPLETION] = RowKind.COMPLETION
    prompt: str
    completion: str


class PreferenceRow(_Row):
    """`chosen` and `rejected` are the turns that follow `prompt`."""

    kind: Literal[RowKind.PREFERENCE] = RowKind.PREFERENCE
    prompt: tuple[Message, ...] = Field(min_length=1)
    chosen: tuple[Message, ...] = Field(min_length=1)
    rejected: tuple[Message, ...] = Field(min_length=1)
    tools: Tools | None = Field(default=None, min_length=1)


class UnpairedRow(_Row):
    kind: Literal[RowKind.UNPAIRED] = RowKind.UNPAIRED
    prompt: tuple[Message, ...] = Field(min_length=1)
    completion: tuple[Message, ...] = Field(min_length=1)
    label: bool
    tools: Tools | None = Field(default=None, min_length=1)


class PromptRow(_Row):
    kind: Literal[RowKind.PROMPT] = RowKind.PROMPT
    prompt: tuple[Message, ...] = Field(min_length=1)
    tools: Tools | None = Field(default=None, min_length=1)


class TextRow(_Row):
    kind: Literal[RowKind.TEXT] = RowKind.TEXT
    text: str


Row = Annotated[
    ChatRow | CompletionRow | PreferenceRow | UnpairedRow | PromptRow | TextRow, Field(discriminator="kind")
]
ROW: TypeAdapter[Row] = TypeAdapter(Row)


def row_bytes(row: Row) -> bytes:
    """The bytes a row's hash is taken over. Absent optional fields are left out."""
    return canonical_json(row.model_dump(mode="json", exclude_none=True))


_PLAIN = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)


def value_bytes(value: dict[str, Any]) -> bytes:
    """`row_bytes` of a row that is given as plain JSON without absent fields, which is quicker.

    But for tools a row has texts, small integers and our own keys only, which Python's encoder writes as RFC 8785 does.
    """
    return canonical_json(value) if "tools" in value else _PLAIN.encode(value).encode()


def row_hash(row: Row) -> str:
    """SHA-256 of one row, as 64 hexadecimal digits."""
    return hashlib.sha256(row_bytes(row)).hexdigest()


class DatasetDigest:
    """SHA-256 over the hashes of the rows in their order: the identity of a data set version.

    It covers the row kind and the canonical fields, nothing else: the same rows have one digest from any file format.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256(b"tuneloop-rows-1\n")

    def add(self, row_digest: str) -> None:
        self._sha.update(bytes.fromhex(row_digest))

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


def as_messages(row: Row) -> list[Message]:
    """The conversation that a chat or completion row teaches: the common shape of supervised fine-tuning."""
    match row:
        case ChatRow():
            return list(row.messages)
        case CompletionRow():
            return [Message(role="user", content=row.prompt), Message(role="assistant", content=row.completion)]
        case _:
            raise TypeError(f"a {row.kind} row is not one conversation")
