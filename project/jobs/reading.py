"""Following `events.jsonl` while an engine writes it."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from project.contracts.events import EVENT, FINAL, LATEST, MOST_STEPS, Event, Log

MOST_AT_ONCE = 1 << 20  # bytes per read: a burst is taken in pieces, so that the lease is renewed between them
LONGEST_LINE = 8 << 20  # bytes; more without a line's end is no event
_METRICS = b'{"type":"metrics",'
_FLOATS = frozenset([float])


class Measured(NamedTuple):
    """A `metrics` line. They come by the million, and a model of each would cost more than all the rest."""

    at: float
    step: int
    values: dict[str, float]
    type: Literal["metrics"] = "metrics"


class Line(NamedTuple):
    """One complete line: its number from 1, where the next one begins, and what it says."""

    number: int
    next_offset: int
    event: Event | Measured


class EventReader:
    """Reads complete lines from where an earlier reader stopped. A half-written last line waits for its end."""

    def __init__(self, path: Path, *, lines: int = 0, offset: int = 0) -> None:
        self._path = path
        self.lines, self.offset = lines, offset
        self._started_at = 0.0

    def read(self) -> list[Line]:
        """What is new. Lines that are no events come as warnings: they are said, and stop nobody."""
        try:
            with self._path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(MOST_AT_ONCE)
                while b"\n" not in data and len(data) >= MOST_AT_ONCE and len(data) < LONGEST_LINE:
                    more = file.read(MOST_AT_ONCE)
                    if not more:
                        break
                    data += more
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        if not end and len(data) >= LONGEST_LINE:
            end = len(data)  # a line without end: skip it piece by piece
        found = []
        for raw in data[:end].splitlines(keepends=True):
            self.offset += len(raw)
            self.lines += 1
            if raw.strip():
                found.append(Line(self.lines, self.offset, self._event(raw)))
        return found

    def _event(self, raw: bytes) -> Event | Measured:
        if raw.startswith(_METRICS) and (measured := _measured(raw)):
            self._started_at = measured.at
            return measured
        try:
            event = EVENT.validate_json(raw)
        except ValidationError:
            shown = raw[:200].decode(errors="replace").strip()
            return Log(at=self._started_at, level="warning", message=f"unreadable event in line {self.lines}: {shown}")
        self._started_at = event.at
        return event


def _measured(raw: bytes) -> Measured | None:
    """The line as our own engines write it; None for any other, which the model judges."""
    try:
        said: dict[str, Any] = from_json(raw)
    except ValueError:
        return None
    at, step, values = said.get("at"), said.get("step"), said.get("values")
    if len(said) != 4 or type(at) is not float or type(step) is not int:
        return None
    if not 0 <= at < LATEST or not 0 <= step < MOST_STEPS:
        return None
    if type(values) is not dict or not _FLOATS.issuperset(map(type, values.values())):
        return None
    return Measured(at, step, values)


def final_event(path: Path) -> Event | None:
    """How a run said that it ended; None when it did not."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LONGEST_LINE))
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        event = EVENT.validate_json(last)
    except (OSError, ValidationError):
        return None
    return event if isinstance(event, FINAL) else None


def log_tail(path: Path, size: int) -> str:
    """The last `size` bytes of a log as text, from the beginning of a line."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            length = file.tell()
            file.seek(max(0, length - size))
            data = file.read()
    except FileNotFoundError:
        return ""
    if length > size:
        data = data.partition(b"\n")[2] or data
    return clean(data)


def clean(data: bytes) -> str:
    """Log bytes as text a database takes; of a line that was drawn over with '\\r' (progress bars) its last state."""
    text = data.decode(errors="replace").replace("\x00", "")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
