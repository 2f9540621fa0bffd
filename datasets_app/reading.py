"""An uploaded file as a stream of records with line numbers. Pure: no Django, so recipes read with it too.

A format is one module in `datasets_app/formats/` (or named by an entry point `tuneloop.formats`) with
`name`, `label`, `suffixes`, `detect(head)` and `read(source)`. It yields a `Record` for each row and a `BadLine` for
each that cannot be read; what makes the whole file unreadable is a `UserError`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from project.contracts.plugins import Plugins
from project.contracts.runs import UserError

HEAD_BYTES = 128 * 1024
_UTF8_BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one import may take. `bytes` and `line_bytes` are bytes of the file as uploaded."""

    bytes: int = 2 * 1024**3
    rows: int = 5_000_000
    line_bytes: int = 8 * 1024**2


class Record(NamedTuple):
    """One row as the file has it: column -> value. `line` is where it begins, counted from 1."""

    line: int
    fields: dict[str, Any]


class BadLine(NamedTuple):
    """A line that is not a row, and why, as the end of the sentence 'Line 7: ...'."""

    line: int
    reason: str


@dataclass(frozen=True)
class Guess:
    """A format's claim to a file: how sure it is (0 to 1), and what it saw."""

    score: float
    evidence: str


@dataclass(frozen=True)
class Head:
    """The beginning of a file. `text` is without byte order mark; `complete` when it is the whole file."""

    data: bytes
    text: str
    suffix: str
    complete: bool

    @property
    def lines(self) -> list[str]:
        """The complete lines of the head, without their ends."""
        lines = self.text.split("\n")
        whole = lines if self.complete or len(lines) == 1 else lines[:-1]
        return [line.rstrip("\r") for line in whole]


class Source:
    """A file on its way through a format. `position` is the number of bytes read so far, for progress."""

    def __init__(self, path: Path, *, name: str = "", limits: Limits | None = None) -> None:
        self.path, self.name, self.limits = path, name or path.name, limits or Limits()
        self.size = path.stat().st_size
        self.position = 0

    @cached_property
    def head(self) -> Head:
        with self.path.open("rb") as file:
            data = file.read(HEAD_BYTES)
        complete = len(data) == self.size
        text = data.removeprefix(_UTF8_BOM).decode("utf-8", errors="replace")
        if not complete:
            text = text.rstrip("\ufffd")  # a character cut in half by the end of the head
        return Head(data, text, Path(self.name).suffix.lower(), complete)

    def open(self) -> BinaryIO:
        """The file behind its byte order mark."""
        file = self.path.open("rb")
        self.position = len(_UTF8_BOM) if file.read(len(_UTF8_BOM)) == _UTF8_BOM else 0
        file.seek(self.position)
        return file

    def lines(self) -> Iterator[tuple[int, str] | BadLine]:
        """(number, text with its line end) of each line; too long ones and ones that are not UTF-8 as BadLine."""
        longest = self.limits.line_bytes
        with self.open() as file:
            number = 0
            while data := file.readline(longest + 1):
                number += 1
                self.position += len(data)
                if len(data) > longest:
                    self._skip_line(file, data)
                    yield BadLine(number, f"it is longer than {longest:,} bytes.")
                    continue
                try:
                    text = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    yield BadLine(number, not_utf8(data, error))
                    continue
                yield number, text

    def _skip_line(self, file: BinaryIO, data: bytes) -> None:
        while data and not data.endswith(b"\n"):
            data = file.readline(_SKIP_BYTES)
            self.position += len(data)


def excerpt(text: str, length: int = 160) -> str:
    """The beginning of a text on one line, without what a database or a terminal chokes on."""
    cut = text[: 2 * length]
    clean = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in cut)
    clean = " ".join(clean.split())
    return clean if len(clean) <= length and len(cut) == len(text) else clean[: length - 1].rstrip() + "…"


def not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    """What to say about a line that is not UTF-8: which byte, where."""
    return (
        f"byte 0x{data[error.start]:02X} at position {error.start + 1} of the line is not UTF-8. "
        "Save the file with the encoding UTF-8."
    )


class Format(Protocol):
    """One way rows are written in a file."""

    name: str
    label: str
    suffixes: tuple[str, ...]

    def detect(self, head: Head) -> Guess | None:
        """How sure it is that this is such a file; None when it is not."""

    def read(self, source: Source) -> Iterator[Record | BadLine]:
        """The rows in order. Raises UserError for what makes the rest unreadable."""


FORMATS: Plugins[Format] = Plugins(
    kind="format",
    group="tuneloop.formats",
    packages=("datasets_app.formats",),
    required=("label", "suffixes", "detect", "read"),
)


@dataclass(frozen=True)
class Detected:
    """The format of a file and why we think so."""

    format: Format
    evidence: str


def detect(source: Source, wanted: str = "auto") -> Detected:
    """The format of a file: `wanted`, or what its content looks like. The name of the file never decides alone.

    Raises UserError for a file that is empty, binary or a web page, and for one that no format recognises;
    UnknownPlugin for a `wanted` that does not exist.
    """
    chosen = None if wanted == "auto" else FORMATS.get(wanted)
    refuse_what_is_not_text(source)
    if chosen is not None:
        return Detected(chosen, "as you said")
    guesses = [(guess.score, plugin, guess) for plugin in FORMATS.all() if (guess := plugin.detect(source.head))]
    if not guesses:
        known = ", ".join(plugin.label for plugin in FORMATS.all())
        first = next((line for line in source.head.lines if line.strip()), "")
        raise UserError(
            f"The format of {source.name} was not recognised; it begins with '{excerpt(first, 60)}'.",
            hint=f'Tuneloop reads {known}. Of a plain text, write each piece as one line {{"text": …}}.',
            field="file",
        )
    _, plugin, guess = max(guesses, key=lambda found: found[0])
    return Detected(plugin, guess.evidence)


_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV UTF-8"),
    (b"\x1f\x8b", "gzip-compressed", "Unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "Unpack it"),
    (b"BZh", "bzip2-compressed", "Unpack it"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it"),
    (b"%PDF", "a PDF document", "Export its content as JSON Lines or CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "Save it as CSV UTF-8"),
    (b"PAR1", "a Parquet file", "Export it as JSON Lines"),
    (b"ARROW1", "an Arrow file", "Export it as JSON Lines"),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV"),
    (b"\x89PNG", "a picture", "Choose the file with the rows"),
    (b"\xff\xd8\xff", "a picture", "Choose the file with the rows"),
    (b"\xff\xfe", "encoded as UTF-16", "Save it with the encoding UTF-8"),
    (b"\xfe\xff", "encoded as UTF-16", "Save it with the encoding UTF-8"),
)


def refuse_what_is_not_text(source: Source) -> None:
    """Raise UserError, saying what the file is instead, when it can't hold rows in any text format."""
    head, name = source.head, source.name
    if source.size > source.limits.bytes:
        raise UserError(
            f"{name} has {source.size:,} bytes; at most {source.limits.bytes:,} are taken.",
            hint="Split it, or ask the operator to raise MAX_UPLOAD_BYTES.",
            field="file",
        )
    if not head.text.strip() and head.complete:
        raise UserError(f"{name} is empty.", hint="Choose a file with at least one row.", field="file")
    for magic, what, advice in _MAGIC:
        if head.data.startswith(magic):
            raise UserError(f"{name} is {what}, not a text file.", hint=f"{advice} and upload that.", field="file")
    start = head.text.lstrip()[:200].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        raise UserError(
            f"{name} is a web page (HTML), whatever its name says.",
            hint="A download often fails like this: open the file, see what it says, and fetch the data again.",
            field="file",
        )
    if start.startswith("<?xml"):
        raise UserError(f"{name} is XML.", hint="Export the rows as JSON Lines, JSON or CSV.", field="file")
    if b"\x00" in head.data:
        position = head.data.index(b"\x00") + 1
        raise UserError(
            f"{name} is a binary file: byte {position} is zero.",
            hint="Choose a text file encoded as UTF-8.",
            field="file",
        )
