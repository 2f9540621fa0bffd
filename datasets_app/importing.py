"""A file as canonical rows: detect the format, recognise or take the mapping, convert, hash. Pure and streaming.

The recipe `import` writes what comes out; the web process runs the same pass over small files before it accepts them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from datasets_app import mapping
from datasets_app.reading import BadLine, Detected, Limits, Record, Source, detect, excerpt
from datasets_app.shapes import BadRow, Parts, listed
from project.contracts.chat import Message
from project.contracts.rows import (
    ROW,
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
from project.contracts.runs import UserError

KEPT_BAD_LINES = 100
_PEEK_ROWS = 100
_PEEK_BYTES = 4 * 1024**2
_META = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Options:
    """How to read a file. `columns` maps parts of a row to columns, empty to recognise them."""

    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    skip_bad_lines: bool = False
    limits: Limits = field(default_factory=Limits)


class TextPart(NamedTuple):
    """One text of a row: where it is, and whether it is what the model learns."""

    where: str
    text: str
    learned: bool
    may_be_empty: bool = False


class Entry(NamedTuple):
    """One row on its way into a version. `number` counts from 1; `data` is its canonical JSON, `hash` its SHA-256."""

    number: int
    line: int
    row: Row
    texts: tuple[TextPart, ...]
    data: str
    meta: str
    hash: str
    as_text: tuple[str, ...]  # columns whose numbers were taken as texts


@dataclass
class BadLines:
    """The bad lines of a file: all counted, the first hundred kept."""

    count: int = 0
    first: list[BadLine] = field(default_factory=list)

    def add(self, line: BadLine) -> None:
        self.count += 1
        if len(self.first) < KEPT_BAD_LINES:
            self.first.append(BadLine(line.line, excerpt(line.reason, 400)))

    def sentence(self) -> str:
        """'Line 5,001: not valid JSON ….', or how many there are, which, and what is wrong with the first."""
        worst = self.first[0]
        if self.count == 1:
            return f"Line {worst.line:,}: {worst.reason}"
        lines = ", ".join(f"{line.line:,}" for line in self.first[:10]) + (", …" if self.count > 10 else "")
        return f"{self.count:,} lines can't be read ({lines}). Line {worst.line:,}: {worst.reason}"


class Importing:
    """One pass over one file. After `rows()` is exhausted, `bad` is complete.

    Raises UserError from the constructor for a file that can't be read at all or whose columns are unclear, and from
    `rows()` at its end for bad lines (unless they are skipped) and when nothing can be learned from what is there.
    """

    def __init__(self, path: Path, options: Options, *, name: str = "") -> None:
        self.options = options
        self.source = Source(path, name=name, limits=options.limits)
        self.bad = BadLines()
        self.detected: Detected = detect(self.source, options.format)
        self._records = iter(self.detected.format.read(self.source))
        self._peeked = self._peek()
        first = next((record for record in self._peeked if isinstance(record, Record)), None)
        if first is None:
            self._refuse_a_file_without_rows()
        assert first is not None  # noqa: S101  (for the type checker: the line above raises)
        self.columns = list(dict.fromkeys(k for r in self._peeked if isinstance(r, Record) for k in r.fields))
        self.mapped = (
            mapping.chosen(options.columns, self.columns)
            if options.columns
            else mapping.recognise(self.columns, first.fields)
        )
        self._teaches = False

    @property
    def kind(self) -> RowKind:
        return self.mapped.shape.kind

    def _peek(self) -> list[Record | BadLine]:
        """The first records, at most a hundred or a few MB: enough to know the columns."""
        peeked: list[Record | BadLine] = []
        for record in self._records:
            peeked.append(record)
            if len(peeked) >= _PEEK_ROWS or self.source.position > _PEEK_BYTES:
                break
        return peeked

    def _refuse_a_file_without_rows(self) -> None:
        for line in (*self._peeked, *self._records):
            if isinstance(line, BadLine):
                self.bad.add(line)
        name, label = self.source.name, self.detected.format.label
        if self.bad.count:
            raise UserError(
                f"{name} holds no usable row. {self.bad.sentence()}",
                hint=f"It was read as {label} ({self.detected.evidence}).",
                field="file",
            )
        raise UserError(f"{name} holds no rows.", hint=f"It was read as {label}.", field="file")

    def rows(self) -> Iterator[Entry]:
        """The rows in the order of the file. The digest depends on that order."""
        number = 0
        for record in self._all_records():
            if isinstance(record, BadLine):
                self.bad.add(record)
                continue
            if self.bad.count and not self.options.skip_bad_lines:
                # The import is refused already; the rest is read only to name all the bad lines at once.
                self._try(record)
                continue
            number += 1
            if number > self.options.limits.rows:
                raise UserError(
                    f"{self.source.name} has more than {self.options.limits.rows:,} rows.",
                    hint="Split it, or ask the operator to raise MAX_DATASET_ROWS.",
                    field="file",
                )
            entry = self._try(record, number)
            if entry is None:
                number -= 1
            else:
                self._teaches = self._teaches or teaches(entry)
                yield entry
        self._judge(number)

    def check(self, up_to: int) -> None:
        """Read the first `up_to` bytes through, for an answer before the job. Raises UserError as `rows` does."""
        for _ in self.rows():
            if self.source.position > up_to:
                break
        self._refuse_bad_lines()

    def _all_records(self) -> Iterator[Record | BadLine]:
        yield from self._peeked
        self._peeked = []
        yield from self._records

    def _try(self, record: Record, number: int = 0) -> Entry | None:
        try:
            return self._convert(record, number)
        except BadRow as error:
            self.bad.add(BadLine(record.line, str(error)))
            return None

    def _convert(self, record: Record, number: int) -> Entry:
        parts: Parts = self.mapped.parts(record.fields)
        value = self.mapped.shape.convert(parts)
        try:
            row = ROW.validate_python(value)
            data = row_bytes(row)
            meta = _META.encode(parts.meta())
            meta.encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise BadRow(f"it holds half a character (\\u{ord(half):04x} without its partner).") from None
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise BadRow(f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}.") from None
        except ValueError:  # JSON's 1e999 is read as infinity
            raise BadRow("it holds a number too large to keep.") from None
        digest = hashlib.sha256(data).hexdigest()
        return Entry(number, record.line, row, texts(row), data.decode(), meta, digest, tuple(parts.as_text))

    def _refuse_bad_lines(self) -> None:
        if self.bad.count and not self.options.skip_bad_lines:
            raise UserError(
                f"{self.source.name}: {self.bad.sentence()}",
                hint="Correct the file, or import the rest with skip_bad_lines.",
                field="file",
            )

    def _judge(self, rows: int) -> None:
        self._refuse_bad_lines()
        if not rows:
            raise UserError(
                f"{self.source.name} holds no usable row. {self.bad.sentence() if self.bad.count else ''}".strip(),
                hint=f"Read as {self.mapped.shape.label}; the columns are {listed(self.columns)}.",
                field="file",
            )
        if not self._teaches:
            raise UserError(
                f"None of the {rows:,} rows of {self.source.name} has anything to learn.",
                hint=_NOTHING_TO_LEARN[self.kind] + f" The columns are {listed(self.columns)}.",
                field="columns" if self.options.columns else "file",
            )


_NOTHING_TO_LEARN = {
    RowKind.CHAT: "Every conversation lacks an assistant turn with text (and a weight that is not 0).",
    RowKind.COMPLETION: "Every completion is empty.",
    RowKind.TEXT: "Every text is empty.",
    RowKind.PREFERENCE: "Every better answer is empty.",
    RowKind.UNPAIRED: "Every answer is empty.",
    RowKind.PROMPT: "Every prompt is empty.",
}


def teaches(entry: Entry) -> bool:
    """Is there anything in the row that a model could learn?"""
    return any(part.learned and part.text.strip() for part in entry.texts)


def texts(row: Row) -> tuple[TextPart, ...]:
    """Every text of a row, in order."""
    match row:
        case TextRow():
            return (TextPart("text", row.text, True),)
        case CompletionRow():
            return (TextPart("prompt", row.prompt, False), TextPart("completion", row.completion, True))
        case ChatRow():
            return tuple(
                TextPart(
                    f"message {number} ({message.role})",
                    message.content,
                    message.role == "assistant" and message.weight != 0,
                    message.role == "system",
                )
                for number, message in enumerate(row.messages, 1)
            )
        case PreferenceRow():
            return (
                *_parts("prompt", row.prompt),
                *_parts("chosen", row.chosen, True),
                *_parts("rejected", row.rejected),
            )
        case UnpairedRow():
            return (*_parts("prompt", row.prompt), *_parts("completion", row.completion, True))
        case PromptRow():
            return _parts("prompt", row.prompt, True)


def _parts(where: str, messages: Iterable[Message], learned: bool = False) -> tuple[TextPart, ...]:
    return tuple(TextPart(where, message.content, learned, message.role == "system") for message in messages)


def look(path: Path, options: Options, *, name: str = "") -> tuple[Detected, list[str], list[dict[str, Any]]]:
    """(format, columns, first records) of a file, for choosing a mapping by eye. Raises UserError."""
    source = Source(path, name=name, limits=options.limits)
    detected = detect(source, options.format)
    records: list[dict[str, Any]] = []
    for record in detected.format.read(source):
        if isinstance(record, Record):
            records.append(record.fields)
        if len(records) >= 5 or source.position > _PEEK_BYTES:
            break
    return detected, list(dict.fromkeys(key for fields in records for key in fields)), records
