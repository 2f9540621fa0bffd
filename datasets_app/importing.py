"""A file as canonical rows: detect the format, recognise or take the mapping, convert, hash. Pure and streaming.

The recipe `import` writes what comes out; the web process runs the same pass over small files before it accepts them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets_app import mapping
from datasets_app.reading import BadLine, Detected, EnoughRead, Limits, Record, Source, detect_format, excerpt
from datasets_app.shapes import BadRow, Parts, listed
from project.contracts.rows import ROW, Row, RowKind, value_bytes
from project.contracts.runs import UserError

KEPT_BAD_LINES = 100
_PEEK_ROWS = 100
_PEEK_BYTES = 4 * 1024**2
_LOOKED_AT = 5  # rows that a person is shown
_META = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Options:
    """How to read a file. `columns` maps parts of a row to columns, empty to recognise them.

    `split` is the part of a folder that has several.
    """

    format: str = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    skip_bad_lines: bool = False
    limits: Limits = field(default_factory=Limits)
    encoding: str = "auto"
    split: str = ""

    def source(self, path: Path, name: str = "") -> Source:
        return Source(path, name, self.limits, self.encoding, self.split)


class TextPart(NamedTuple):
    """One text of a row: where it is, and whether it is what the model learns."""

    where: str
    text: str
    learned: bool
    may_be_empty: bool = False


class Entry:
    """One row on its way into a version. `number` counts from 1; `data` is its canonical JSON, `hash` its SHA-256.

    `row` and `texts` may be None at first: they are made of `data` when they are asked for, because not everybody
    does, and a million rows are passed on. An entry never changes; `_replace` makes another one.
    """

    __slots__ = (
        "_given_key",
        "_row",
        "_texts",
        "_value",
        "as_text",
        "data",
        "hash",
        "left_out",
        "line",
        "meta",
        "number",
        "origin",
    )

    def __init__(
        self,
        number: int,
        line: int,
        row: Row | None,
        texts: tuple[TextPart, ...] | None,
        data: str,
        meta: str,
        hash: str,
        as_text: tuple[str, ...] = (),
        value: Mapping[str, Any] | None = None,
        left_out: tuple[str, ...] = (),
        origin: str = "",
    ) -> None:
        self.number, self.line, self.data, self.meta, self.hash = number, line, data, meta, hash
        self.as_text = as_text  # columns whose numbers were taken as texts
        self.left_out = left_out  # what messages say besides, which no row keeps
        self.origin = origin  # the hash before a step first changed the row; empty for a row that none changed
        self._row, self._texts, self._value = row, texts, value
        self._given_key: int | None = None

    @property
    def row(self) -> Row:
        if self._row is None:
            self._row = ROW.validate_json(self.data)
        return self._row

    @property
    def value(self) -> Mapping[str, Any]:
        """The row as plain JSON: much cheaper than `row` for what only looks."""
        if self._value is None:
            self._value = json.loads(self.data)
        return self._value

    @property
    def kind(self) -> RowKind:
        return RowKind(self.value["kind"])

    @property
    def texts(self) -> tuple[TextPart, ...]:
        if self._texts is None:
            self._texts = texts_of(self.value)
        return self._texts

    @property
    def given_key(self) -> int:
        """`given_key` of its texts: storage and checks both want it."""
        if self._given_key is None:
            self._given_key = given_key(self.texts)
        return self._given_key

    def _replace(self, **changes: Any) -> "Entry":
        """This entry with other values. Who changes `data` gives `row` and `texts` too, or None for both."""
        same = ("number", "line", "data", "meta", "hash", "as_text", "left_out", "origin")
        kept = {name: getattr(self, name) for name in same}
        if not {"data", "row"} & changes.keys():
            kept |= {"row": self._row, "texts": self._texts, "value": self._value}
        return Entry(**({"row": None, "texts": None} | kept | changes))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in ("number", "line", "data", "meta"))

    def __hash__(self) -> int:
        return hash((self.number, self.hash))

    def __repr__(self) -> str:
        return f"Entry({self.number}, line={self.line}, data={self.data!r}, meta={self.meta!r})"


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
    With `up_to` only about so many bytes are read, whatever they hold, and what lies behind them is not judged.
    """

    def __init__(self, path: Path, options: Options, *, name: str = "", up_to: int | None = None) -> None:
        self.options = options
        self.source = options.source(path, name)
        self.bad = BadLines()
        self.detected: Detected = detect_format(self.source, options.format)
        self.source.enough = up_to
        self._cut = False
        self._records = self._read()
        self._peeked = self._peek()
        first = next((record for record in self._peeked if isinstance(record, Record)), None)
        if first is None:
            raise self._no_rows()
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

    def _read(self) -> Iterator[Record | BadLine]:
        """What the file holds, as far as it is to be read."""
        enough = self.source.enough
        try:
            for record in self.detected.format.read(self.source):
                yield record
                if enough is not None and self.source.unpacked > enough:
                    self._cut = True
                    return
        except EnoughRead:
            self._cut = True

    def _peek(self) -> list[Record | BadLine]:
        """From the first row on, at most a hundred or a few MB: enough to know the columns."""
        peeked: list[Record | BadLine] = []
        for record in self._records:
            if isinstance(record, BadLine) and not peeked:
                self.bad.add(record)
                continue
            peeked.append(record)
            if len(peeked) >= _PEEK_ROWS or self.source.unpacked > _PEEK_BYTES:
                break
        return peeked

    def _no_rows(self) -> UserError:
        name, label = self.source.name, self.detected.format.label
        where = f" in its first {self.source.unpacked:,} bytes" if self._cut else ""
        if self.bad.count:
            return UserError(
                f"{name} holds no usable row{where}. {self.bad.sentence()}",
                hint=f"It was read as {label} ({self.detected.evidence}).",
                field="file",
            )
        return UserError(f"{name} holds no rows{where}.", hint=f"It was read as {label}.", field="file")

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
        if self._cut:
            self._refuse_bad_lines()
        else:
            self._judge(number)

    def check(self) -> None:
        """Read all through (or what `up_to` says), for an answer before the job. Raises UserError as `rows` does."""
        for _ in self.rows():
            pass

    def _all_records(self) -> Iterator[Record | BadLine]:
        yield from self._peeked
        self._peeked = []
        yield from self._records

    def _try(self, record: Record, number: int = 0) -> Entry | None:
        try:
            return as_entry(self.mapped, record, number)
        except BadRow as error:
            self.bad.add(BadLine(record.line, str(error)))
            return None

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


def as_entry(mapped: mapping.Mapped, record: Record, number: int) -> Entry:
    """The row that a record is. Raises BadRow.

    Shapes give rows of texts only (and of tools), so what they give needs no second validation.
    """
    parts: Parts = mapped.parts(record.fields)
    value = mapped.shape.convert(parts)
    try:
        data = value_bytes(value)
        meta = _meta(parts.meta())
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise BadRow(f"it holds half a character (\\u{ord(half):04x} without its partner).") from None
    except ValueError:  # JSON's 1e999 is read as infinity
        raise BadRow("it holds a number too large to keep.") from None
    digest = hashlib.sha256(data).hexdigest()
    as_text = tuple(parts.as_text)
    left_out = tuple(parts.left_out)
    return Entry(number, record.line, None, texts_of(value), data.decode(), meta, digest, as_text, value, left_out)


def _meta(fields: Mapping[str, Any]) -> str:
    """The other columns as JSON. Raises ValueError as rows do."""
    if not fields:
        return "{}"
    meta = _META.encode(fields)
    meta.encode()
    return meta


def given_key(parts: Sequence[TextPart]) -> int:
    """64 bits that stand for what is asked; for all of it in a row without a question."""
    given = [part.text for part in parts if not part.learned and not part.may_be_empty]
    text = " ".join(" ".join(given or [part.text for part in parts]).split()).casefold()
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def texts(row: Row) -> tuple[TextPart, ...]:
    """Every text of a row, in order."""
    return texts_of(row.model_dump(mode="json", exclude_none=True))


def texts_of(value: Mapping[str, Any]) -> tuple[TextPart, ...]:
    """Every text of a row that is given as plain JSON, in order. A call of a tool is a text too."""
    match value["kind"]:
        case "chat":
            return tuple(_turns(value["messages"]))
        case "completion":
            return (TextPart("prompt", value["prompt"], False), TextPart("completion", value["completion"], True))
        case "text":
            return (TextPart("text", value["text"], True),)
        case "preference":
            return (
                *_parts("prompt", value["prompt"]),
                *_parts("chosen", value["chosen"], True),
                *_parts("rejected", value["rejected"]),
            )
        case "unpaired":
            return (*_parts("prompt", value["prompt"]), *_parts("completion", value["completion"], True))
        case _:
            return tuple(_parts("prompt", value["prompt"], True))


def _turns(messages: Iterable[Mapping[str, Any]]) -> Iterator[TextPart]:
    for number, message in enumerate(messages, 1):
        role = message["role"]
        learned = role == "assistant" and message.get("weight") != 0
        calls = message.get("tool_calls", ())
        yield TextPart(_where(number, role), message["content"], learned, role == "system" or bool(calls))
        for call in calls:
            yield TextPart(f"message {number} ({role}, a call)", _call_text(call), learned)


@lru_cache(10_000)
def _where(number: int, role: str) -> str:
    return f"message {number} ({role})"


def _parts(where: str, messages: Iterable[Mapping[str, Any]], learned: bool = False) -> Iterator[TextPart]:
    for message in messages:
        calls = message.get("tool_calls", ())
        yield TextPart(where, message["content"], learned, message["role"] == "system" or bool(calls))
        for call in calls:
            yield TextPart(f"{where} (a call)", _call_text(call), learned)


def _call_text(call: Mapping[str, Any]) -> str:
    return f"{call['function']['name']}({call['function']['arguments']})"


@dataclass(frozen=True)
class Looked:
    """What a file seems to be, for a person who is to judge that. `mapped` is None when its columns are unclear."""

    detected: Detected
    columns: list[str]
    records: list[dict[str, Any]]  # the first few, as the file has them
    mapped: mapping.Mapped | None
    rows: list[Entry]  # the first few, as they would be stored
    problem: str = ""  # why the first that is none is none


def look(path: Path, options: Options, *, name: str = "") -> Looked:
    """The format, the columns and the first rows of a file. Raises UserError when it can't be read at all."""
    source = options.source(path, name)
    detected = detect_format(source, options.format)
    records: list[Record] = []
    problem = ""
    source.enough = _PEEK_BYTES
    try:
        for record in detected.format.read(source):
            if isinstance(record, Record):
                records.append(record)
            else:
                problem = problem or f"Line {record.line:,}: {record.reason}"
            if len(records) >= _LOOKED_AT or source.unpacked > _PEEK_BYTES:
                break
    except EnoughRead:
        problem = problem or f"No row ends in the first {source.unpacked:,} bytes."
    columns = list(dict.fromkeys(key for record in records for key in record.fields))
    if not records:
        return Looked(detected, columns, [], None, [], problem)
    try:
        chosen = options.columns
        mapped = mapping.chosen(chosen, columns) if chosen else mapping.recognise(columns, records[0].fields)
    except UserError:
        return Looked(detected, columns, [record.fields for record in records], None, [], problem)
    rows = []
    for number, record in enumerate(records, 1):
        try:
            rows.append(as_entry(mapped, record, number))
        except BadRow as error:
            problem = problem or f"Line {record.line:,}: {error}"
    return Looked(detected, columns, [record.fields for record in records], mapped, rows, problem)
