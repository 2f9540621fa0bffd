"""Keep the first of rows that are equal."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Literal

from pydantic import Field

from datasets_app.editing import text_of
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams
from datasets_app.steps._standins import StandIns
from project.contracts.rows import value_bytes

name = "drop_duplicates"
label = "Drop exact duplicates"

_AT_ONCE = 2048  # rows, and bytes below, that are compared together
_BYTES_AT_ONCE = 8 * 1024**2
_TEXTS = {"text", "prompt", "completion", "messages", "chosen", "rejected", "content"}  # of a row, and of a message


class Params(StepParams):
    example = {}

    by: Literal["row", "prompt", "answer"] = Field(
        default="row", description="What has to be equal: the whole row, or only its prompt or its answer."
    )
    ignore_case: bool = Field(default=False, description="Take capitals and runs of blanks in texts as equal.")


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Memory: 16 bytes per row that is kept, and twice that for a moment; 16 per row that is dropped.

    Two rows are taken as equal by 128 bits. Copies of a dropped row follow the one that stays.
    """
    why = "an earlier row is the same" if params.by == "row" else f"an earlier row has the same {params.by}"
    seen, stand_ins = Seen(), StandIns(ctx)
    for batch in batches(rows):
        digests = [_digest(entry, params) for entry in batch]
        for entry, digest, new in zip(batch, digests, seen.new(digests), strict=True):
            group = int.from_bytes(digest[:8])
            if new:
                if stand_ins.kept(entry, group):
                    yield entry
            else:
                stand_ins.dropped(entry, group)
                ctx.dropped(entry, why)
    yield from stand_ins.rest()


def _digest(entry: Entry, params: Params) -> bytes:
    if params.by == "row" and not params.ignore_case:
        return bytes.fromhex(entry.hash[:32])
    if params.by == "row":
        return sha256(value_bytes(_loosely(dict(entry.value)))).digest()[:16]
    text = text_of(entry, params.by)
    return sha256((_plain(text) if params.ignore_case else text).encode()).digest()[:16]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _loosely(value: Any) -> Any:
    """A row, or messages of one, with plain texts. Roles, labels, weights, tools and their calls stay as they are."""
    if isinstance(value, list):
        return [_loosely(message) for message in value]
    return {name: _loosened(part) if name in _TEXTS else part for name, part in value.items()}


def _loosened(part: Any) -> Any:
    return _plain(part) if isinstance(part, str) else _loosely(part)


def batches(rows: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Rows in portions of bounded size."""
    batch: list[Entry] = []
    size = 0
    for entry in rows:
        batch.append(entry)
        size += len(entry.data) + len(entry.meta)
        if len(batch) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Seen:
    """A growing set of digests of 16 bytes, in sorted arrays of which each is at least twice the next."""

    def __init__(self) -> None:
        self._sorted: list[Any] = []

    def new(self, digests: list[bytes]) -> list[bool]:
        """For each: is it new, here and before? They are remembered."""
        import numpy as np

        wanted = np.frombuffer(b"".join(digests), dtype=[("high", ">u8"), ("low", ">u8")])
        wanted = _comparable(wanted)
        _, firsts = np.unique(wanted, return_index=True)
        new = np.zeros(len(wanted), dtype=bool)
        new[firsts] = True
        for known in self._sorted:
            places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            new &= known[places] != wanted
        self._add(np.sort(wanted[new]))
        return [bool(flag) for flag in new]

    def _add(self, digests: Any) -> None:
        import numpy as np

        if not len(digests):
            return
        self._sorted.append(digests)
        while len(self._sorted) > 1 and len(self._sorted[-1]) * 2 > len(self._sorted[-2]):
            last, before = self._sorted.pop(), self._sorted.pop()
            self._sorted.append(np.sort(np.concatenate([before, last]), kind="stable"))


def _comparable(digests: Any) -> Any:
    """Texts of 16 bytes compare in numpy; the last byte is never 0, which would be taken as the text's end."""
    import numpy as np

    plain = digests.view(np.uint8).reshape(-1, 16).copy()
    plain[:, 15] |= 1
    return plain.reshape(-1).view("S16")
