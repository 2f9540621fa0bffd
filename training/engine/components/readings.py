"""How a recipe reads a row of a data set: the conversations it becomes, which are rendered one by one. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, PreferenceRow, Row, RowKind, UnpairedRow

Conversations = tuple[ChatRow | CompletionRow, ...]


@dataclass(frozen=True)
class Reading:
    """Rows of `kinds` (in `words`) become `width` conversations each. `tag` gives a small number that goes along.

    With `texts` rows are texts instead, learned from the first token to the last in pieces that follow each other.
    """

    name: str
    kinds: frozenset[RowKind]
    words: str
    conversations: Callable[[Row], Conversations]
    width: int = 1
    tag: Callable[[Row], int] | None = None
    texts: bool = False


def _answer(row: Row) -> Conversations:
    assert isinstance(row, ChatRow | CompletionRow)  # noqa: S101  # `kinds` says so
    return (row,)


def _none(row: Row) -> Conversations:
    return ()


def _pair(row: Row) -> Conversations:
    """The better answer, then the worse one. What was said before is given, not learned."""
    assert isinstance(row, PreferenceRow)  # noqa: S101
    before = _given(row.prompt)
    return tuple(ChatRow(messages=(*before, *_learned(turns)), tools=row.tools) for turns in (row.chosen, row.rejected))


def _judged(row: Row) -> Conversations:
    assert isinstance(row, UnpairedRow)  # noqa: S101
    return (ChatRow(messages=(*_given(row.prompt), *_learned(row.completion)), tools=row.tools),)


def _given(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(
        message.model_copy(update={"weight": 0}) if message.role == "assistant" else message for message in messages
    )


def _learned(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(message.model_copy(update={"weight": None}) for message in messages)


def _label(row: Row) -> int:
    assert isinstance(row, UnpairedRow)  # noqa: S101
    return int(row.label)


ANSWERS = Reading("answers", frozenset({RowKind.CHAT, RowKind.COMPLETION}), "chat and completion", _answer)
PAIRS = Reading("pairs", frozenset({RowKind.PREFERENCE}), "preference", _pair, width=2)
JUDGED = Reading("judged", frozenset({RowKind.UNPAIRED}), "unpaired", _judged, tag=_label)
TEXTS = Reading("texts", frozenset({RowKind.TEXT}), "text", _none, texts=True)
