"""Rows and reports as pages show them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from datasets_app import portions
from datasets_app.models import DatasetVersion
from datasets_app.storage import StoredRow
from project.kernel import artifacts

PAGE = 20  # rows
_BEGINNING = 600  # characters of one text that are shown at once
_BEFORE_HIT = 200  # characters that are shown before the first hit of a search
_LONGEST = 20_000  # characters of one text that are shown at all; the API has all of it
_LONGEST_ROW = 50_000  # characters, of all its texts
_MOST_TURNS = 100  # of a row
_LONGEST_META = 4_000  # characters of the other columns


@dataclass(frozen=True)
class Turn:
    """One bubble: `role` gives its side and colour, `who` its title."""

    role: str
    who: str
    text: str
    length: int  # characters
    search: str = ""

    @property
    def is_cut(self) -> bool:
        return len(self.text) > _BEGINNING or self.is_shortened

    @property
    def is_shortened(self) -> bool:
        """Is there more of the text than the page has?"""
        return len(self.text) < self.length

    @property
    def beginning(self) -> list[tuple[str, bool]]:
        """What is shown at once, in pieces: (text, is it what was searched for). Around the first hit if it is late."""
        if not self.is_cut:
            return pieces(self.text, self.search)
        hit = re.search(re.escape(self.search), self.text, re.IGNORECASE) if self.search else None
        start = max(hit.start() - _BEFORE_HIT, 0) if hit and hit.end() > _BEGINNING else 0
        text = self.text[start : start + _BEGINNING]
        is_end = start + _BEGINNING >= len(self.text) and not self.is_shortened
        return pieces(f"{'…' if start else ''}{text}{'' if is_end else '…'}", self.search)


def pieces(text: str, search: str) -> list[tuple[str, bool]]:
    """The text cut at every place where it has `search`, in any case."""
    if not search or not text:
        return [(text, False)] if text else []
    parts = re.split(f"({re.escape(search)})", text, flags=re.IGNORECASE)
    return [(part, place % 2 == 1) for place, part in enumerate(parts) if part]


@dataclass(frozen=True)
class ShownRow:
    number: int
    turns: list[Turn]
    meta: dict[str, Any]
    turns_left_out: int = 0  # the page has no room for them
    mark: str = ""  # what somebody did to it that is not saved yet


class Rows(Sequence[ShownRow]):
    """The rows of a version for a Paginator: only the page that is shown is read."""

    def __init__(self, version: DatasetVersion) -> None:
        self._version = version

    def __len__(self) -> int:
        return self._version.rows

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, slice) and self._version.artifact  # noqa: S101  (a Paginator asks for slices)
        start, stop, _ = index.indices(len(self))
        return numbered(self._version, range(start + 1, stop + 1))


def shown(stored: StoredRow, search: str = "") -> ShownRow:
    """A row as a page shows it: shortened where it has megabytes. What was searched is marked."""
    every, turns, room = _turns(stored.row), [], _LONGEST_ROW
    for turn in every[:_MOST_TURNS]:
        text = turn.text[: min(room, _LONGEST)]
        turns.append(replace(turn, text=text, search=search))
        room -= len(text)
        if room <= 0:
            break
    return ShownRow(stored.number, turns, _Brief().of(stored.meta), len(every) - len(turns))


class _Brief:
    """Makes the other columns short: once `room` is used up, what follows is only counted."""

    def __init__(self) -> None:
        self.room = _LONGEST_META  # characters

    def of(self, value: Any) -> Any:
        if isinstance(value, str):
            kept = value[: max(self.room, 0)]
            self.room -= len(kept)
            return value if len(kept) == len(value) else f"{kept}… ({len(value):,} characters)"
        self.room -= 2
        if isinstance(value, list):
            parts = [self.of(part) for part in takewhile(self._has_room, value)]
            return parts if len(parts) == len(value) else [*parts, f"… ({len(value) - len(parts):,} more)"]
        if isinstance(value, dict):
            found = {self.of(name): self.of(part) for name, part in takewhile(self._has_room, value.items())}
            return found if len(found) == len(value) else {**found, "…": f"{len(value) - len(found):,} more"}
        return value

    def _has_room(self, _: Any) -> bool:
        return self.room > 0


def numbered(version: DatasetVersion, numbers: Sequence[int], search: str = "") -> list[ShownRow]:
    """The rows with these numbers, each shortened before the next one is read."""
    assert version.artifact  # noqa: S101  (it is ready)
    folder = artifacts.local_path(version.artifact)
    found = {row.number: shown(row, search) for row in portions.each(folder, numbers)}
    return [found[number] for number in numbers]


def _turns(row: dict[str, Any]) -> list[Turn]:
    match row["kind"]:
        case "chat":
            return [turn for message in row["messages"] for turn in _message(message)]
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


def _message(message: dict[str, Any], who: str = "") -> list[Turn]:
    """What is said, and one turn for each call of a tool."""
    who = who or _WHO[message["role"]] + (" (not learned)" if message.get("weight") == 0 else "")
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    said = [] if calls and not message["content"] else [_turn(message["role"], who, message["content"])]
    return said + [_turn(message["role"], f"{who} calls {call['name']}", call["arguments"]) for call in calls]


def _conversation(prompt: list[dict[str, Any]], answers: list[tuple[str, list[dict[str, Any]]]]) -> list[Turn]:
    turns = [turn for message in prompt for turn in _message(message)]
    return turns + [turn for who, messages in answers for message in messages for turn in _message(message, who)]


def _turn(role: str, who: str, text: str) -> Turn:
    return Turn("user" if role == "tool" else role, who, text, len(text))


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram. `x`, `width` and `height` in percent of the picture."""

    x: float
    width: float
    height: float
    words: str


def bars(figure: dict[str, Any] | None, unit: str = "characters") -> list[Bar]:
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
            words=f"{bar['from']:,} to {bar['to'] - 1:,} {unit}: {bar['rows']:,} row{'s' * (bar['rows'] != 1)}",
        )
        for number, bar in enumerate(histogram)
    ]


def page_of(row: int) -> int:
    """The page of the preview on which a row is."""
    return (row - 1) // PAGE + 1
