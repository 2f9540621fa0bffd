"""An uploaded file as a stream of records with line numbers. Pure: no Django, so recipes read with it too.

A format is one module in `datasets_app/formats/` (or named by an entry point `tuneloop.formats`) with
`name`, `label`, `suffixes`, `detect(head)` and `read(source)`. It yields a `Record` for each row and a `BadLine` for
each that cannot be read; what makes the whole file unreadable is a `UserError`. Formats of text see UTF-8 without a
byte order mark, whatever the file is encoded or packed with. A format of bytes says `binary = True`, and is given
`source.path`, a file or a folder.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from datasets_app import encodings
from datasets_app.unpacking import SUFFIXES as PACKED_SUFFIXES
from datasets_app.unpacking import Unpacking, kind_of
from project.contracts.plugins import Plugins
from project.contracts.runs import UserError

HEAD_BYTES = 128 * 1024
_SKIP_BYTES = 1024 * 1024
_BUFFER = 1024 * 1024
_BEYOND = 16 * 1024**2  # bytes; more than what is looked at to find out format and encoding


class EnoughRead(Exception):
    """More came out of a file than somebody wanted who only looks, and no row of it ended."""


@dataclass(frozen=True)
class Limits:
    """What one import may take. `bytes` are those of the file as uploaded, `unpacked_bytes` what it stands for."""

    bytes: int = 2 * 1024**3
    rows: int = 5_000_000
    line_bytes: int = 8 * 1024**2
    unpacked_bytes: int = 8 * 1024**3


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
    """The beginning of a file. `data` are its bytes, unpacked; `text` is decoded; `complete` when it is all of it.

    `suffix` is the name's, without that of gzip or zstd. Of a folder, `names` are its files and the rest is empty.
    """

    data: bytes
    text: str
    suffix: str
    complete: bool
    names: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The complete lines of the head, without their ends."""
        lines = self.text.split("\n")
        whole = lines if self.complete or len(lines) == 1 else lines[:-1]
        return [line.rstrip("\r") for line in whole]


@dataclass
class Source:
    """A file, or a folder of files, on its way through a format. `encoding` is what the user said, or auto.

    `split` names the part of a folder that has several (train, test, ...). Who only looks at the beginning says with
    `enough` how many bytes; reading raises EnoughRead somewhat behind them.
    """

    path: Path
    name: str = ""
    limits: Limits = field(default_factory=Limits)
    encoding: str = "auto"
    split: str = ""
    enough: int | None = None
    _raw: "_Counted | None" = None
    _unpacking: Unpacking | None = None
    _done: int = 0  # bytes of the file that were read, where a format reads it itself
    _out: int | None = None  # bytes that came out of them

    def __post_init__(self) -> None:
        self.name = self.name or self.path.name
        self.size = size_of(self.path)

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @property
    def position(self) -> int:
        """Bytes of the file read so far, for progress. A format that reads `path` itself says it with `advance`."""
        return self._done if self._raw is None else self._raw.position

    @property
    def unpacked(self) -> int:
        """Bytes that came out so far: what the work depends on."""
        if self._out is not None:
            return self._out
        return self._unpacking.position if self._unpacking is not None else self.position

    def advance(self, position: int, unpacked: int | None = None) -> None:
        """Say how far a format that opens `path` itself has come, and how many bytes came out."""
        self._raw, self._done, self._out = None, position, unpacked
        self.refuse_more()

    def refuse_more(self) -> None:
        """Raise EnoughRead when far more came out than is enough."""
        if self.enough is not None and self.unpacked > self.enough + _BEYOND:
            raise EnoughRead

    @cached_property
    def packing(self) -> str:
        """'gzip', 'zstd' or ''."""
        if self.is_folder:
            return ""
        with self.path.open("rb") as file:
            return kind_of(file.read(4))

    @cached_property
    def found_encoding(self) -> encodings.Found:
        """The encoding, decided by the first megabytes. Raises UserError for one that can't be."""
        with self._open_bytes() as file:
            sample = _read_up_to(file, encodings.SAMPLE_BYTES)
        return encodings.find(sample, self.encoding, complete=len(sample) < encodings.SAMPLE_BYTES)

    @cached_property
    def head(self) -> Head:
        suffixes = [suffix.lower() for suffix in Path(self.name).suffixes]
        if self.packing and suffixes and suffixes[-1] in PACKED_SUFFIXES:
            suffixes.pop()
        suffix = suffixes[-1] if suffixes else ""
        if self.is_folder:
            names = sorted(path.relative_to(self.path).as_posix() for path in files_of(self.path))
            return Head(b"", "", suffix, True, tuple(names))
        with self._open_bytes() as file:
            data = _read_up_to(file, HEAD_BYTES)
        with self.open() as file:
            text = _read_up_to(file, HEAD_BYTES)
        complete = len(data) < HEAD_BYTES and len(text) < HEAD_BYTES
        words = text.decode("utf-8", errors="replace")
        if not complete:
            words = words.rstrip("\ufffd")  # a character cut in half by the end of the head
        return Head(data, words, suffix, complete)

    def open(self) -> BinaryIO:
        """The text behind its byte order mark, as UTF-8. A byte that its encoding does not have is none of UTF-8."""
        found = self.found_encoding
        file = self._open_bytes()
        file.read(found.mark)
        returns = self._ends_lines_like_old_macs
        if found.name == "utf-8" and not returns:
            return file
        return cast(BinaryIO, io.BufferedReader(encodings.AsUtf8(file, found.name, carriage_returns=returns), _BUFFER))

    @cached_property
    def _ends_lines_like_old_macs(self) -> bool:
        with self._open_bytes() as file:
            beginning = _read_up_to(file, HEAD_BYTES)
        return b"\r" in beginning[:-2] and b"\n" not in beginning

    def _open_bytes(self) -> BinaryIO:
        """The file's bytes, unpacked."""
        self._raw = _Counted(self.path)
        self._unpacking = None
        if not self.packing:
            return cast(BinaryIO, io.BufferedReader(_Refusing(self, self._raw), _BUFFER))
        packed = cast(BinaryIO, io.BufferedReader(self._raw, _BUFFER))
        self._unpacking = Unpacking(packed, self.packing, limit=self.limits.unpacked_bytes, name=self.name)
        return cast(BinaryIO, io.BufferedReader(_Refusing(self, self._unpacking), _BUFFER))

    def lines(self) -> Iterator[tuple[int, str] | BadLine]:
        """(number, text with its line end) of each line; too long and badly encoded ones as BadLine."""
        longest = self.limits.line_bytes
        with self.open() as file:
            number = 0
            while data := file.readline(longest + 1):
                number += 1
                if len(data) > longest:
                    yield BadLine(number, f"it is longer than {longest:,} bytes.")
                    _skip_line(file, data)  # only if somebody wants what follows: it may be gigabytes
                    continue
                try:
                    text = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    yield BadLine(number, self.not_text(data, error))
                    continue
                yield number, text

    def not_text(self, data: bytes, error: UnicodeDecodeError) -> str:
        """What to say about a line with a byte that its encoding does not have: which byte, where."""
        byte, encoding = data[error.start], self.found_encoding.name
        if encoding != "utf-8":
            half = data[error.start : error.start + 3].decode("utf-8", "surrogatepass")
            byte = ord(half[0]) - 0xDC00
        advice = (
            'Save the file with the encoding UTF-8, or say its own, as in encoding="cp1252".'
            if encoding == "utf-8"
            else "Say the encoding that it has."
        )
        where = f"position {error.start + 1} of the line"
        return f"byte 0x{byte:02X} at {where} is not {encodings.label(encoding)}. {advice}"

    def part(self, path: Path, *, unpacked: int = 0) -> "Source":
        """One file of a folder, of which `unpacked` bytes came out already: the limits are those of all of it."""
        left = replace(self.limits, unpacked_bytes=max(self.limits.unpacked_bytes - unpacked, 0))
        return replace(self, path=path, name=path.name, limits=left, _raw=None, _unpacking=None, _done=0, _out=None)


class _Counted(io.FileIO):
    """A file that remembers how much of it was read, also when it is closed."""

    position = 0

    def readinto(self, buffer: Any, /) -> int:  # type: ignore[override]
        size = super().readinto(buffer) or 0
        self.position += size
        return size


class _Refusing(io.RawIOBase):
    """The bytes of a source, as long as it has not given enough. Closing it closes what it reads from."""

    def __init__(self, source: Source, raw: io.RawIOBase) -> None:
        self._source, self._from = source, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._source.refuse_more()
        return cast(int | None, self._from.readinto(buffer))  # type: ignore[attr-defined]

    def close(self) -> None:
        self._from.close()
        super().close()


def files_of(folder: Path) -> list[Path]:
    """The files below a folder that may hold rows: not hidden, no links."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in files_of(path)) if path.is_dir() else path.stat().st_size


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _skip_line(file: BinaryIO, data: bytes) -> None:
    while data and not data.endswith(b"\n"):
        data = file.readline(_SKIP_BYTES)


def excerpt(text: str, length: int = 160) -> str:
    """The beginning of a text on one line, without what a database or a terminal chokes on."""
    cut = text[: 2 * length]
    clean = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in cut)
    clean = " ".join(clean.split())
    return clean if len(clean) <= length and len(cut) == len(text) else clean[: length - 1].rstrip() + "…"


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


def detect_format(source: Source, wanted: str = "auto") -> Detected:
    """The format of a file: `wanted`, or what its content looks like. The name of the file never decides alone.

    Raises UserError for a file that is empty, too large, of a known other kind or a web page, and for one that no
    format recognises; UnknownPlugin for a `wanted` that does not exist.
    """
    chosen = None if wanted == "auto" else FORMATS.get(wanted)
    _refuse_what_is_too_large(source)
    binary = [plugin for plugin in FORMATS.all() if is_binary(plugin)]
    if chosen is None or is_binary(chosen):
        found = _best(source, [chosen] if chosen is not None else binary)
        if found is not None:
            return found
    if source.is_folder or (chosen is not None and is_binary(chosen)):
        raise _not_recognised(source, chosen)
    refuse_what_is_not_text(source)
    packed = f"unpacked from {source.packing}" if source.packing else ""
    encoding = "" if source.found_encoding.evidence == "UTF-8" else f"encoded as {source.found_encoding.evidence}"
    extra = [words for words in (encoding, packed) if words]
    if chosen is not None:
        return Detected(chosen, "; ".join(["as you said", *extra]))
    best = _best(source, [plugin for plugin in FORMATS.all() if not is_binary(plugin)])
    if best is None:
        raise _not_recognised(source, None)
    return Detected(best.format, "; ".join([best.evidence, *extra]))


def is_binary(plugin: Format) -> bool:
    """Does the format read the file itself, and not its text?"""
    return bool(getattr(plugin, "binary", False))


def _best(source: Source, plugins: list[Format]) -> Detected | None:
    guesses = [(guess.score, plugin, guess) for plugin in plugins if (guess := plugin.detect(source.head))]
    if not guesses:
        return None
    _, plugin, guess = max(guesses, key=lambda found: found[0])
    return Detected(plugin, guess.evidence)


def _not_recognised(source: Source, chosen: Format | None) -> UserError:
    known = ", ".join(plugin.label for plugin in FORMATS.all() if plugin.name != "folder") + " and folders of them"
    if source.is_folder:
        return UserError(
            f"{source.name} is a folder without a file of rows.", hint=f"Tuneloop reads {known}.", field="file"
        )
    first = next((line for line in source.head.lines if line.strip()), "")
    is_not = f"{source.name} is not {chosen.label}" if chosen else f"The format of {source.name} was not recognised"
    return UserError(
        f"{is_not}; it begins with '{excerpt(first, 60)}'.",
        hint=f"Tuneloop reads {known}. Say which, with format.",
        field="file",
    )


_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "Unpack it, or save the sheet as CSV UTF-8"),
    (b"\x1f\x8b", "gzip-compressed twice", "Unpack it once"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed twice", "Unpack it once"),
    (b"BZh", "bzip2-compressed", "Unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "xz-compressed", "Unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it"),
    (b"Rar!", "a RAR archive", "Unpack it"),
    (b"%PDF", "a PDF document", "Export its content as JSON Lines or CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "Save it as CSV UTF-8"),
    (b"PAR1", "a packed Parquet file, or a damaged one", "Upload the Parquet file itself: it is compressed inside"),
    (b"ARROW1", "a packed Arrow file, or a damaged one", "Upload the Arrow file itself"),
    (b"SQLite format 3", "an SQLite database", "Export the table as CSV"),
    (b"\x89PNG", "a picture", "Choose the file with the rows"),
    (b"\xff\xd8\xff", "a picture", "Choose the file with the rows"),
)


def _refuse_what_is_too_large(source: Source) -> None:
    if source.size > source.limits.bytes:
        raise UserError(
            f"{source.name} has {source.size:,} bytes; at most {source.limits.bytes:,} are taken.",
            hint="Split it, or ask the operator to raise MAX_UPLOAD_BYTES.",
            field="file",
        )


def refuse_what_is_not_text(source: Source) -> None:
    """Raise UserError, saying what the file is instead, when it can't hold rows in any text format."""
    name = source.name
    data = source.head.data
    for magic, what, advice in _MAGIC:
        if data.startswith(magic):
            raise UserError(f"{name} is {what}, not a text file.", hint=f"{advice} and upload that.", field="file")
    if data[257:262] == b"ustar":
        raise UserError(f"{name} is a tar archive.", hint="Unpack it and upload the file with the rows.", field="file")
    head = source.head
    if not head.text.strip() and head.complete:
        raise UserError(f"{name} is empty.", hint="Choose a file with at least one row.", field="file")
    start = head.text.lstrip()[:200].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        raise UserError(
            f"{name} is a web page (HTML), whatever its name says.",
            hint="A download often fails like this: open the file, see what it says, and fetch the data again.",
            field="file",
        )
    if start.startswith("<?xml"):
        raise UserError(f"{name} is XML.", hint="Export the rows as JSON Lines, JSON or CSV.", field="file")
    if "\x00" in head.text:
        position = data.find(b"\x00") + 1
        raise UserError(
            f"{name} is a binary file: byte {position} is zero.",
            hint="Choose a text file, or a Parquet file.",
            field="file",
        )
