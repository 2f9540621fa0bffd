"""Rows and reports as pages show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets_app import storage
from datasets_app.models import DatasetVersion
from project.kernel import artifacts

PAGE = 20  # rows
_BEGINNING = 600  # characters of one text that are shown at once
_LONGEST = 20_000  # characters that are shown at all; the API has all of it


@dataclass(frozen=True)
class Turn:
    """One bubble: `role` gives its side and colour, `who` its title."""

    role: str
    who: str
    text: str
    length: int  # characters

    @property
    def is_cut(self) -> bool:
        return len(self.text) > _BEGINNING

    @property
    def beginning(self) -> str:
        return f"{self.text[:_BEGINNING]}…" if self.is_cut else self.text


@dataclass(frozen=True)
class ShownRow:
    number: int
    turns: list[Turn]
    meta: dict[str, Any]


class Rows(Sequence[ShownRow]):
    """The rows of a version for a Paginator: only the page that is shown is read."""

    def __init__(self, version: DatasetVersion) -> None:
        self._version = version

    def __len__(self) -> int:
        return self._version.rows

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, slice) and self._version.artifact  # noqa: S101  (a Paginator asks for slices)
        start, stop, _ = index.indices(len(self))
        folder = artifacts.local_path(self._version.artifact)
        return [shown(row) for row in storage.read(folder, start, stop - start)]


def shown(stored: storage.StoredRow) -> ShownRow:
    return ShownRow(stored.number, list(_turns(stored.row)), stored.meta)


def _turns(row: dict[str, Any]) -> list[Turn]:
    match row["kind"]:
        case "chat":
            return [_message(message) for message in row["messages"]]
        case "completion":
            return [_turn("user", "Prompt", row["prompt"]), _turn("assistant", "Completion", row["completion"])]
        case "preference":
            answers = [("Better answer", row["chosen"]), ("Worse answer", row["rejected"])]
            return _conversation(row["prompt"], answers)
        case "unpaired":
            return _conversation(row["prompt"], [(f"{'Good' if row['label'] else 'Bad'} answer", row["completion"])])
        case "prompt":
            return _conversation(row["prompt"], [])
        case _:
            return [_turn("system", "Text", row["text"])]


_WHO = {"system": "System prompt", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def _message(message: dict[str, Any]) -> Turn:
    who = _WHO[message["role"]] + (" (not learned)" if message.get("weight") == 0 else "")
    return _turn(message["role"], who, message["content"])


def _conversation(prompt: list[dict[str, Any]], answers: list[tuple[str, list[dict[str, Any]]]]) -> list[Turn]:
    turns = [_message(message) for message in prompt]
    return turns + [_turn(m["role"], who, m["content"]) for who, messages in answers for m in messages]


def _turn(role: str, who: str, text: str) -> Turn:
    return Turn("user" if role == "tool" else role, who, text[:_LONGEST], len(text))


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram. `x`, `width` and `height` in percent of the picture."""

    x: float
    width: float
    height: float
    words: str


def bars(figure: dict[str, Any] | None) -> list[Bar]:
    """A histogram of the report as bars; the last one may stand for everything longer."""
    histogram = (figure or {}).get("histogram", [])
    most = max((bar["rows"] for bar in histogram), default=0)
    if not most:
        return []
    width = 100 / len(histogram)
    return [
        Bar(
            x=number * width,
            width=width * 0.9,
            # A bar that stands for something is always seen.
            height=max(100 * bar["rows"] / most, 1.5) if bar["rows"] else 0,
            words=f"{bar['from']:,} to {bar['to'] - 1:,} characters: {bar['rows']:,} row{'s' * (bar['rows'] != 1)}",
        )
        for number, bar in enumerate(histogram)
    ]


def page_of(row: int) -> int:
    """The page of the preview on which a row is."""
    return (row - 1) // PAGE + 1
