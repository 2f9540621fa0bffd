"""Corrections of single rows that somebody has made and not yet saved. They live in the session of that person.

Saved, they are one preparation step, `correct`, and so a new version: rows of a version never change.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.sessions.backends.base import SessionBase

from datasets_app.models import DatasetVersion
from datasets_app.steps.correct import MOST
from datasets_app.storage import StoredRow
from project.kernel.errors import invalid

_KEY = "corrections"
_LONGEST = 150_000  # characters of all of them as JSON; a list of steps may have 200,000
_VERSIONS = 5  # of so many versions they are kept; of more the oldest go

Json = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """One text of a row that can be edited. `name` is the form's, `path` leads to it in the row."""

    name: str
    who: str
    text: str
    path: tuple[str | int, ...]


_WHO = {
    "prompt": "Prompt",
    "completion": "Answer",
    "chosen": "Better answer",
    "rejected": "Worse answer",
    "text": "Text",
}
_ROLES = {"system": "System prompt", "user": "User", "assistant": "Assistant", "tool": "Tool"}


def texts(row: Json) -> list[Text]:
    """Everything in a row that a person can write, in order. Calls of tools stay as they are."""
    return [Text(f"text-{number}", *found) for number, found in enumerate(_texts(row))]


def _texts(row: Json) -> Iterator[tuple[str, str, tuple[str | int, ...]]]:
    for part in ("messages", "prompt", "completion", "chosen", "rejected", "text"):
        value = row.get(part)
        if isinstance(value, str):
            yield _WHO[part], value, (part,)
        for place, message in enumerate(value if isinstance(value, list) else ()):
            role = _ROLES[message["role"]]
            who = role if part in ("messages", "prompt") else _WHO[part]
            if message["content"] or not message.get("tool_calls"):
                yield who, message["content"], (part, place, "content")


def with_texts(row: Json, given: Mapping[str, str]) -> Json:
    """The row with what the form said. A text that differs in its line ends alone (browsers change them) stays."""
    changed: Json = json.loads(json.dumps(row))
    for text in texts(row):
        new = given.get(text.name, text.text).replace("\r\n", "\n")
        if new == text.text.replace("\r\n", "\n").replace("\r", "\n"):
            continue
        holder: Any = changed
        for step in text.path[:-1]:
            holder = holder[step]
        holder[text.path[-1]] = new
    return changed


class Corrections:
    """Those of one version, by row number: {"hash", "row"}, where `row` is None for one that is left out."""

    def __init__(self, session: SessionBase, version: DatasetVersion) -> None:
        self._session, self._key = session, str(version.pk)
        self._all: dict[str, dict[str, Json]] = session.get(_KEY, {})

    def __len__(self) -> int:
        return len(self._mine)

    @property
    def _mine(self) -> dict[str, Json]:
        return self._all.get(self._key, {})

    def of(self, number: int) -> Json | None:
        return self._mine.get(str(number))

    def put(self, stored: StoredRow, row: Json | None) -> None:
        """`row` in the place of a stored one. The same as it was takes the correction back. Raises Invalid."""
        mine = {number: found for number, found in self._mine.items() if number != str(stored.number)}
        if row != stored.row:
            mine[str(stored.number)] = {"hash": stored.hash, "row": row}
        if len(mine) > MOST or len(json.dumps(mine, ensure_ascii=False)) > _LONGEST:
            raise invalid("rows", "These are too many corrections for one step. Save those that are there first.")
        self._store(mine)

    def drop(self) -> None:
        self._store({})

    def step(self) -> Json:
        """All of them as a preparation step."""
        rows = sorted(self._mine.items(), key=lambda found: int(found[0]))
        return {"type": "correct", "rows": [{**found, "number": int(number)} for number, found in rows]}

    def _store(self, mine: dict[str, Json]) -> None:
        others = {key: found for key, found in self._all.items() if key != self._key}
        newest = list(others.items())[-(_VERSIONS - 1) :]
        self._all = dict(newest) | ({self._key: mine} if mine else {})
        self._session[_KEY] = self._all
