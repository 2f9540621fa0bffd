"""What steps that drop repeated rows share: a copy of a dropped row gets the row that stays in its place.

A copy names the row that it was made from, to stay by its side when data is split. Where that row is dropped because an
earlier one is the same by now, the copy would be nobody's, and could be learned while what it repeats is held out.
"""

import re
import struct
from array import array
from collections.abc import Iterator
from typing import Any

from datasets_app.editing import made_from, meta_of, with_meta
from datasets_app.importing import Entry
from datasets_app.preparing import Spill, StepContext
from datasets_app.storage import SYNTHETIC

_HASH = re.compile("[0-9a-f]{64}")
_UNKNOWN = "0" * 64  # people may bring copies that name what they like
_PACKED = struct.Struct("<Q?32s")
_RECORD = [("group", "<u8"), ("is_copy", "?"), ("first", "<u8"), ("rest", "V24")]  # the same; a hash in two parts


class StandIns:
    """Takes the rows in their order, each with the number of its group: of rows that are the same, one is kept.

    `if kept(entry, group): yield entry`, or `dropped(entry, group)`; at the end `yield from rest()`. Without copies
    rows go on at once; from the first copy on they wait on disk, because a row may come behind its copies. On disk are
    41 bytes for a kept row too; memory is 16 bytes for a dropped one, and about 200 for one that copies are left of.
    """

    def __init__(self, ctx: StepContext) -> None:
        self._ctx = ctx
        self._waiting: Spill | None = None
        self._path = ctx.path("kept")
        self._file: Any = None
        self._gone, self._groups = array("Q"), array("Q")  # origins of dropped rows, and whose place is theirs

    def kept(self, entry: Entry, group: int) -> bool:
        """Take a row that stays. Does it go on at once?"""
        copied = made_from(entry)
        self._remember(group, bool(copied), copied or entry.origin or entry.hash)
        if copied and self._waiting is None:
            self._waiting = self._ctx.spill()
        if self._waiting is None:
            return True
        self._waiting.add(entry)
        return False

    def dropped(self, entry: Entry, group: int) -> None:
        if not made_from(entry):  # nothing is made from copies: what looks so is made from their rows
            self._gone.append(_first(entry.origin or entry.hash))
            self._groups.append(group)

    def rest(self) -> Iterator[Entry]:
        """The rows that waited. The copies of dropped rows name others now."""
        if self._file is not None:
            self._file.close()
        if self._waiting is not None:
            places = self._places()
            for entry in self._waiting.read():
                of = made_from(entry)
                place = places.get(_first(of)) if _is_hash(of) else None
                yield entry if place is None else _made_from(entry, place)
            self._waiting.drop()
        self._path.unlink(missing_ok=True)

    def _remember(self, group: int, is_copy: bool, origin: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        known = origin if not is_copy or _is_hash(origin) else _UNKNOWN
        self._file.write(_PACKED.pack(group, is_copy, bytes.fromhex(known)))

    def _places(self) -> dict[int, str]:
        """For rows that are gone, by the beginning of their first hash: the first hash of the row in their place.

        Only those that no other row of the same origin is left of.
        """
        import numpy as np

        if not self._gone or self._file is None:
            return {}
        kept = np.memmap(self._path, dtype=_RECORD, mode="r")
        wanted, there = kept["first"][kept["is_copy"]], kept["first"][~kept["is_copy"]]
        gone, groups = np.frombuffer(self._gone, np.uint64), np.frombuffer(self._groups, np.uint64)
        lost = np.isin(gone, wanted) & ~np.isin(gone, there)
        gone, first = np.unique(gone[lost], return_index=True)
        order = np.argsort(kept["group"], kind="stable")
        found = order[np.searchsorted(kept["group"][order], groups[lost][first])]
        origins = ((kept["first"][place].tobytes() + kept["rest"][place].tobytes()).hex() for place in found)
        return {int(key): origin for key, origin in zip(gone, origins, strict=True) if origin != _UNKNOWN}


def _is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None


def _first(digest: str) -> int:
    return int.from_bytes(bytes.fromhex(digest[:16]), "little")


def _made_from(entry: Entry, origin: str) -> Entry:
    meta = meta_of(entry)
    return with_meta(entry, {**meta, SYNTHETIC: {**meta[SYNTHETIC], "of": origin}})
