"""CSV with a header line (RFC 4180), separated by comma, semicolon or bar, as Excel and pandas write it."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from datasets_app.reading import BadLine, Guess, Head, Record, Source, excerpt
from project.contracts.runs import UserError

name = "csv"
label = "CSV"
suffixes = (".csv",)

DELIMITERS = {",": "comma", ";": "semicolon", "|": "bar"}
_NAMES = {**DELIMITERS, "\t": "tab"}
_SAMPLE_ROWS = 50
_EXCEL_HINT = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # Excel's own first line


def detect(head: Head) -> Guess | None:
    if head.text.lstrip()[:1] in ("{", "["):
        return None
    delimiter, columns, agreement = sniff(head)
    if columns < 2:
        named = head.suffix in suffixes
        return Guess(0.4, "it is named .csv and has one column") if named and agreement else None
    if agreement < 0.9 and head.suffix not in suffixes:
        return None
    return Guess(0.4 + 0.3 * agreement, f"{columns} columns separated by {DELIMITERS[delimiter]}")


def sniff(head: Head) -> tuple[str, int, float]:
    """(delimiter, number of columns, share of the first rows that have as many)."""
    if (match := _EXCEL_HINT.fullmatch(head.lines[0])) and match[1] in DELIMITERS:
        return match[1], 2, 1.0
    best = (",", 0, 0.0)
    for delimiter in DELIMITERS:
        columns, agreeing = agreement(head, delimiter)
        if (columns > 1, agreeing, columns) > (best[1] > 1, best[2], best[1]):
            best = (delimiter, columns, agreeing)
    return best


def agreement(head: Head, delimiter: str) -> tuple[int, float]:
    """(number of columns, share of the first rows that have as many)."""
    try:
        rows = [row for row in islice(csv.reader(head.lines, delimiter=delimiter), _SAMPLE_ROWS) if row]
    except csv.Error:
        return 0, 0.0
    if not rows or (len(rows) == 1 and not head.complete):
        return len(rows[0]) if rows else 0, 0.0
    columns = len(rows[0])
    return columns, Counter(map(len, rows))[columns] / len(rows)


def read(source: Source) -> Iterator[Record | BadLine]:
    return read_separated(source, sniff(source.head)[0])


def read_separated(source: Source, delimiter: str) -> Iterator[Record | BadLine]:
    """The rows under the header. A row of another width is a bad line."""
    csv.field_size_limit(max(csv.field_size_limit(), source.limits.line_bytes))
    rows = _Rows(source, delimiter)
    header: list[str] | None = None
    for first, row in rows:
        if isinstance(row, BadLine):
            if header is None:
                raise UserError(f"{source.name}, line {row.line}, the header: {row.reason}", field="file")
            yield row
        elif not row or (first == 1 and _EXCEL_HINT.fullmatch(delimiter.join(row))):
            continue
        elif header is None:
            header = _header(row, source, first)
        elif len(row) != len(header):
            yield BadLine(first, _wrong_width(row, header, delimiter))
        else:
            yield Record(first, dict(zip(header, row, strict=True)))


class _Rows:
    """Rows with the line they begin on. A line that is not UTF-8 spoils its row only."""

    def __init__(self, source: Source, delimiter: str) -> None:
        self._source, self._delimiter = source, delimiter
        self._bad: BadLine | None = None

    def __iter__(self) -> Iterator[tuple[int, list[str] | BadLine]]:
        reader = csv.reader(self._texts(), delimiter=self._delimiter, strict=True)
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield first, self._bad or BadLine(first, _quoting(str(error), first, reader.line_num))
            else:
                yield first, self._bad or row
            self._bad = None

    def _texts(self) -> Iterator[str]:
        for line in self._source.lines():
            if isinstance(line, BadLine):
                self._bad = line
                yield "\n"
            else:
                yield line[1]


def _quoting(error: str, first: int, last: int) -> str:
    if "unexpected end of data" in error or "field limit" in error:
        return f'the quote (") opened in this row is not closed by line {last:,}. Close it, or double quotes in texts.'
    return f'its quotes are wrong ({error}). Put texts in quotes (") and double the quotes within.'


def _header(row: list[str], source: Source, line: int) -> list[str]:
    # pandas leaves its index column without a name
    names = [name.strip() or f"column_{number}" for number, name in enumerate(row, 1)]
    double = next((column for column, times in Counter(names).items() if times > 1), None)
    if double is not None:
        raise UserError(
            f"{source.name}, line {line}: the header has two columns named '{excerpt(double, 60)}'.",
            hint="Rename one of them.",
            field="file",
        )
    return names


def _wrong_width(row: list[str], header: list[str], delimiter: str) -> str:
    advice = f"A text that contains a {_NAMES[delimiter]} has to be in quotes."
    return f"it has {len(row)} values, the header has {len(header)} columns. {advice}"
