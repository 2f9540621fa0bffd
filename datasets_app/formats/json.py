"""JSON: a list of objects, or objects one after the other, in the memory of one row however large the file.

An object that holds the list under a usual name ({"data": [...]}) is read as that list.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from datasets_app.formats import _strict_json as strict
from datasets_app.reading import BadLine, Guess, Head, Record, Source
from project.contracts.runs import UserError

name = "json"
label = "JSON"
suffixes = (".json",)

_CHUNK = 1024 * 1024
_LONGEST_WORD = 16  # characters: '-Infinity' or '\\uD83D\\uDE00' cut by the end of a chunk
_BLANK = re.compile(r"[ \t\r\n]*")
_LIST_START = re.compile(r"\[[ \t\r\n]*([^ \t\r\n])")


# Names under which an object may hold the rows.
WRAPPERS = ("data", "rows", "examples", "items", "records", "instances", "train", "dataset", "results")
_WRAPPED = re.compile(r'\s*\{\s*"(?:' + "|".join(WRAPPERS) + r')"\s*:\s*\[\s*[{\]]')


def detect(head: Head) -> Guess | None:
    text = head.text.lstrip()
    if text.startswith("["):
        return Guess(0.9, "it begins with '[', a list")
    if not text.startswith("{"):
        return None
    try:
        value, end = strict.LENIENT.raw_decode(text)
    except (ValueError, RecursionError):
        value, end = {}, 0
    if _WRAPPED.match(text) or any(_are_rows(value.get(key)) for key in WRAPPERS):
        return Guess(1.0, "an object that holds a list of rows")
    if "\n" in text[:end]:
        return Guess(0.9, "objects over several lines")
    return Guess(0.5 if head.suffix in suffixes else 0.3, "it begins with '{'")


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def read(source: Source) -> Iterator[Record | BadLine]:
    with source.open() as file:
        window = _Window(source, file)
        if window.next_character() == "{":
            yield from _objects(window)
            return
        window.expect("[")
        yield from _list(window)
        if window.next_character():
            raise window.problem("there is something behind the end of the list")


def _list(window: "_Window") -> Iterator[Record | BadLine]:
    """The rows behind a '['."""
    if window.next_character() == "]":
        window.take()
    else:
        yield from _elements(window)


def _objects(window: "_Window") -> Iterator[Record | BadLine]:
    """Objects one after the other. The first may be what holds the list; then the others are not there."""
    line, members, wrapped = window.line, {}, False
    window.expect("{")
    while window.next_character() != "}":
        key = _key(window)
        if key in WRAPPERS and not wrapped and window.next_character() == "[" and window.holds_objects():
            wrapped = True
            window.take()
            yield from _list(window)
        else:
            member = window.element()
            if isinstance(member, BadLine):
                raise window.problem(member.reason.removesuffix("."))
            if key in members:
                raise window.problem(f"the key '{key[:60]}' appears twice in one object; keep one of them")
            members[key] = member.value
        if window.next_character() not in (",", "}"):
            raise window.problem("expecting ',' or '}' behind a value")
        if window.next_character() == ",":
            window.take()
            if window.next_character() == "}":
                raise window.problem("there is a ',' before the end of the object; remove it")
    window.take()
    if not wrapped:
        yield Record(line, members)
    while window.next_character():
        element = window.element()
        yield element if isinstance(element, BadLine) else _row(element)


def _key(window: "_Window") -> str:
    if window.next_character() != '"':
        raise window.problem("expecting a key in double quotes")
    key = window.element()
    if isinstance(key, BadLine):
        raise window.problem(key.reason.removesuffix("."))
    window.expect(":")
    return str(key.value)


def _row(element: "_Element") -> Record | BadLine:
    if isinstance(element.value, dict):
        return Record(element.line, element.value)
    return BadLine(element.line, f"it is {strict.kind_of(element.value)}; each row has to be an object.")


def _elements(window: "_Window") -> Iterator[Record | BadLine]:
    while True:
        element = window.element()
        yield element if isinstance(element, BadLine) else _row(element)
        separator = window.next_character()
        if separator not in (",", "]"):
            raise window.problem("expecting ',' or ']' behind a row")
        window.take()
        if separator == "]":
            return
        if window.next_character() == "]":
            raise window.problem("there is a ',' before the end of the list; remove it")


@dataclass(frozen=True)
class _Element:
    line: int
    value: Any


class _Window:
    """The part of the text that is being looked at. `at` is the next character; what lies before it is dropped."""

    def __init__(self, source: Source, file: BinaryIO) -> None:
        self._source, self._file = source, file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._ended = "", 0, False
        self._line = 1  # of the character at `_at`
        self._line_start = 0  # position in the text, possibly negative, where that line begins

    def next_character(self) -> str:
        """The next one that is no blank, without taking it; '' at the end."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._advance(match.end() if match else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read(_CHUNK):
                return ""

    @property
    def line(self) -> int:
        """The line of the next character."""
        return self._line

    def holds_objects(self) -> bool:
        """Is the list that begins here one of objects, or empty?"""
        while not (match := _LIST_START.match(self._text, self._at)):
            if len(self._text) - self._at > _CHUNK or not self._read(_CHUNK):
                return False
        return match[1] in ("{", "]")

    def take(self) -> None:
        self._advance(self._at + 1)

    def expect(self, character: str) -> None:
        if self.next_character() != character:
            raise self.problem(f"expecting '{character}'")
        self.take()

    def element(self) -> _Element | BadLine:
        """The JSON value that begins here. What cannot be parsed ends the file: nobody knows where the next begins."""
        self.next_character()
        line = self._line
        while True:
            try:
                value, end, reason = self._parse()
            except json.JSONDecodeError as error:
                offset = error.pos - self._at  # reading on moves the window
                if self._may_be_cut(error) and self._more(line):
                    continue
                self._advance(min(self._at + offset, len(self._text)))
                raise self.problem(f"not valid JSON: {strict.complaint(error)}") from None
            except RecursionError:
                raise self.problem(strict.too_deep().removesuffix(".")) from None
            if end == len(self._text) and self._more(line):
                continue  # a number may go on in the next chunk
            text = self._text[self._at : end]
            self._advance(end)
            if reason:
                return BadLine(line, reason)
            if len(text) > self._source.limits.line_bytes:
                return BadLine(line, f"the row is longer than {self._source.limits.line_bytes:,} bytes.")
            try:
                strict.check_depth(value, text)
            except strict.NotJson as error:
                return BadLine(line, str(error))
            return _Element(line, value)

    def _parse(self) -> tuple[Any, int, str]:
        """(value, its end, why it is refused although its end is known)."""
        if found := strict.quickly(self._text, self._at):
            return *found, ""
        try:
            value, end = strict.STRICT.raw_decode(self._text, self._at)
            return value, end, ""
        except json.JSONDecodeError:
            raise
        except strict.NotJson as error:
            _, end = strict.LENIENT.raw_decode(self._text, self._at)
            return None, end, str(error)
        except ValueError as error:  # a number of more than 4,300 digits
            raise self.problem(str(error)) from None

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Is it only that the chunk ends in the middle of the value?"""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_WORD

    def _more(self, line: int) -> bool:
        """Read on, at least doubling what is at hand. False at the end of the file."""
        pending = len(self._text) - self._at
        if pending > 2 * self._source.limits.line_bytes:
            longest = self._source.limits.line_bytes
            raise UserError(
                f"{self._source.name}, line {line:,}: the row that begins here is longer than {longest:,} bytes, "
                "or is not valid JSON.",
                hint="Look at it in an editor; a missing quote or bracket is likely.",
                field="file",
            )
        return self._read(max(_CHUNK, pending))

    def _read(self, size: int) -> bool:
        if self._ended:
            return False
        data = self._file.read(size)
        self._ended = not data
        self._line_start -= self._at
        try:
            self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._not_utf8(error) from None
        self._at = 0
        return not self._ended

    def _advance(self, end: int) -> None:
        newlines = self._text.count("\n", self._at, end)
        if newlines:
            self._line += newlines
            self._line_start = self._text.rindex("\n", self._at, end) + 1
        self._at = end

    def problem(self, what: str) -> UserError:
        return UserError(
            f"{self._source.name}, line {self._line:,}, column {self._at - self._line_start + 1:,}: {what}.",
            hint="Behind a place like this nothing can be read, so skip_bad_lines does not help: correct the file.",
            field="file",
        )

    def _not_utf8(self, error: UnicodeDecodeError) -> UserError:
        before = error.object[: error.start]
        line = self._line + self._text.count("\n", self._at) + before.count(b"\n")
        start = before.rfind(b"\n") + 1
        data = error.object[start : error.start + 4]
        at = UnicodeDecodeError("utf-8", data, error.start - start, error.end - start, error.reason)
        return UserError(f"{self._source.name}, line {line:,}: {self._source.not_text(data, at)}", field="file")
