"""Stored rows for one answer of the web process: no more of them than fit. Pure.

A row may have megabytes, so the 500 rows that somebody asks for may have gigabytes. Here they are read a row group at a
time (32 MiB and a row), and only those that go into the answer are kept.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from datasets_app.storage import FILE, StoredRow

BUDGET = 8 * 1024**2  # bytes of the rows of one answer, as they are stored


class Raw(NamedTuple):
    """A row as it is stored: its canonical JSON and that of its other columns."""

    row: bytes
    meta: bytes
    hash: str

    def parsed(self, number: int) -> StoredRow:
        return StoredRow(number, json.loads(self.row), json.loads(self.meta), self.hash)


def fitting(folder: Path, numbers: Sequence[int]) -> list[StoredRow]:
    """The rows with these numbers (which exist), in this order: as many of the first as fit into the budget.

    There is always one: a row that is over the budget is given alone.
    """
    kept = _Kept(len(numbers))
    kept.read(folder, numbers)
    return [row for (row,) in kept.parsed([numbers]) if row is not None]


def fitting_pairs(
    folders: tuple[Path, Path], numbers: Sequence[Sequence[int | None]]
) -> list[tuple[StoredRow | None, StoredRow | None]]:
    """The same for pairs of rows of two versions. A side may be None; both sides of a pair are in the answer."""
    kept = _Kept(len(numbers))
    sides = [[pair[side] for pair in numbers] for side in (0, 1)]
    for folder, side in zip(folders, sides, strict=True):
        kept.read(folder, side)
    return [(old, new) for old, new in kept.parsed(sides)]


def each(folder: Path, numbers: Iterable[int]) -> Iterator[StoredRow]:
    """The rows with these numbers in the order of the file, one after the other, for whoever shortens each."""
    for number, raw in _rows(folder, numbers):
        yield raw.parsed(number)


class _Kept:
    """The rows of the first places of an answer that fit, while rows come in any order.

    The rows up to a place only become more: once they are over the budget, that place is out with all behind it.
    """

    def __init__(self, places: int) -> None:
        self.end = places  # the first place that is out; never the first of all
        self._sizes: dict[int, int] = {}  # place -> bytes
        self._total = 0
        self._sides: list[dict[int, Raw]] = []  # of each side: place -> row

    def read(self, folder: Path, numbers: Sequence[int | None]) -> None:
        """Read the rows that one side of the answer has at its places."""
        places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            if number is not None:
                places.setdefault(number, []).append(place)
        found: dict[int, Raw] = {}
        self._sides.append(found)
        for number, raw in _rows(folder, places, lambda number: places[number][0] < self.end):
            for place in places[number]:
                found[place] = raw
                self._sizes[place] = self._sizes.get(place, 0) + len(raw.row) + len(raw.meta)
                self._total += len(raw.row) + len(raw.meta)
            self._shorten()

    def _shorten(self) -> None:
        # Empty where the first row that was read is too large by itself and not the first of the answer.
        while (last := max(self._sizes, default=0)) > 0 and (self._total > BUDGET or last >= self.end):
            self.end = min(self.end, last)
            self._total -= self._sizes.pop(last)
            for found in self._sides:
                found.pop(last, None)

    def parsed(self, sides: Sequence[Sequence[int | None]]) -> Iterator[tuple[StoredRow | None, ...]]:
        for place in range(self.end):
            yield tuple(
                None if number is None else found[place].parsed(number)
                for number, found in zip((numbers[place] for numbers in sides), self._sides, strict=True)
            )


def _rows(
    folder: Path, numbers: Iterable[int], needed: Callable[[int], bool] = lambda number: True
) -> Iterator[tuple[int, Raw]]:
    """(number, row) of these rows in the order of the file, but those that are not `needed` when it is their turn."""
    import pyarrow.parquet as pq

    wanted = sorted(set(numbers))
    with pq.ParquetFile(folder / FILE) as file:
        sizes = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        for group, (start, end) in enumerate(pairwise(accumulate(sizes, initial=0))):
            here = list(filter(needed, wanted[bisect_right(wanted, start) : bisect_right(wanted, end)]))
            if here:
                table = file.read_row_group(group, columns=["row", "meta", "hash"])
                yield from ((number, _raw(table, number - 1 - start)) for number in here if needed(number))
                del table  # before the next one is read


def _raw(table: Any, index: int) -> Raw:
    row, meta, digest = (table.column(name)[index] for name in ("row", "meta", "hash"))
    return Raw(row.as_buffer().to_pybytes(), meta.as_buffer().to_pybytes(), digest.as_py())
