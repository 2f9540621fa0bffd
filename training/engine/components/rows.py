"""Rows of a data set as token ids and labels, in the groups that a training step takes.

What is learned from one row of a data set is a lesson: one rendered row, or several that are compared with each other.
"""

import gc
import hashlib
import itertools
import random
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from project.contracts.rows import ROW, ChatRow, CompletionRow, DatasetDigest, Row, TextRow
from project.contracts.runs import RunContext, UserError
from project.modeling.render import Rendered, TemplateError, render_rows, text_ids
from training.engine.components.packing import pack
from training.engine.components.readings import ANSWERS, Reading
from training.engine.splits import held_back

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a position that is not learned


class RenderedRows(Sequence[Rendered]):
    """Rendered rows laid end to end: 5 bytes a token, where lists of numbers take about 50.

    `ids` are all their tokens (int32), `mask` what is learned of these (bytes of 0 and 1), `ends[i]` where row i begins
    and `ends[i + 1]` where it ends; `dropped` as of each row. Always `width` rows are one lesson; `tags` are small
    numbers, one for each lesson or none.
    """

    __slots__ = ("dropped", "ends", "ids", "mask", "tags", "width")

    def __init__(self, rows: Iterable[Rendered] = (), *, width: int = 1) -> None:
        self.ids, self.mask = array("i"), bytearray()
        self.ends, self.dropped = array("q", [0]), array("q")
        self.width, self.tags = width, array("b")
        for row in rows:
            self.append(row)

    def append(self, row: Rendered) -> None:
        self.ids.extend(row.ids)
        self.mask += bytes(row.mask)
        self.ends.append(len(self.ids))
        self.dropped.append(row.dropped)

    def __len__(self) -> int:
        return len(self.dropped)

    @overload
    def __getitem__(self, index: int) -> Rendered: ...

    @overload
    def __getitem__(self, index: slice) -> "RenderedRows": ...

    def __getitem__(self, index: int | slice) -> "Rendered | RenderedRows":
        if isinstance(index, slice):
            return self.taken(range(*index.indices(len(self))))
        at = range(len(self))[index]
        start, end = self.ends[at], self.ends[at + 1]
        return Rendered(self.ids[start:end].tolist(), list(self.mask[start:end]), self.dropped[at])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RenderedRows):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    @property
    def lessons(self) -> int:
        return len(self) // self.width

    def taken(self, indices: Iterable[int]) -> "RenderedRows":
        """These rows, in this order, as lessons of one row."""
        some = RenderedRows()
        for i in indices:
            start, end = self.ends[i], self.ends[i + 1]
            some.ids += self.ids[start:end]
            some.mask += self.mask[start:end]
            some.ends.append(len(some.ids))
            some.dropped.append(self.dropped[i])
        return some

    def lessons_taken(self, lessons: Sequence[int]) -> "RenderedRows":
        """These lessons, in this order."""
        width = self.width
        some = self.taken(row for lesson in lessons for row in range(lesson * width, (lesson + 1) * width))
        some.width = width
        some.tags.extend([self.tags[lesson] for lesson in lessons] if self.tags else ())
        return some

    @property
    def lengths(self) -> list[int]:
        """In tokens."""
        return [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]


@dataclass
class TokenRows:
    """Rendered rows that teach something, and what happened to the others. Lengths are in tokens."""

    rows: RenderedRows = field(default_factory=RenderedRows)
    numbers: "array[int]" = field(default_factory=lambda: array("q"))  # of the lessons, from 1 in the data set
    read: int = 0
    truncated: int = 0
    dropped_tokens: int = 0
    unlearnable: int = 0
    digest: str = ""

    @property
    def tokens(self) -> int:
        return len(self.rows.ids)

    @property
    def learned(self) -> int:
        return self.rows.mask.count(1)


def tokenise(
    rows: Iterable[str],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    ctx: RunContext,
    reading: Reading = ANSWERS,
) -> TokenRows:
    """Render every row (canonical JSON) as the lesson that `reading` makes of it. Rendered rows longer than
    `max_length` are cut, lessons in which one has no learned token left out; both counted.

    Raises UserError for a row of another kind or one that the chat template refuses, with its number (from 1).
    """
    with seldom_collected():
        read = tokenise_texts if reading.texts else _tokenise
        return read(rows, tokenizer, max_length, ctx, reading)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Millions of objects come and go, none in cycles: looking for those again and again took a third of the time."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _tokenise(
    rows: Iterable[str], tokenizer: "PreTrainedTokenizerBase", max_length: int, ctx: RunContext, reading: Reading
) -> TokenRows:
    found = TokenRows(rows=RenderedRows(width=reading.width))
    digest = DatasetDigest()
    tags: deque[int] = deque()
    rendered = render_rows(tokenizer, _readable(rows, reading, digest, tags), max_length=max_length)
    for number in itertools.count(1):
        lesson = list(itertools.islice(rendered, reading.width))
        if not lesson:
            break
        if number % 256 == 1:
            ctx.check_stop()
            ctx.progress(number - 1, 0, unit="row", phase="tokenise")
        whole = [one for one in lesson if isinstance(one, Rendered)]
        if error := next((one for one in lesson if isinstance(one, TemplateError)), None):
            raise UserError(f"Row {number}: {error}", hint=error.hint, field=error.field) from error
        found.read = number
        found.truncated += any(one.dropped for one in whole)
        found.dropped_tokens += sum(one.dropped for one in whole)
        tag = tags.popleft()
        if all(map(teaches, whole)):
            for one in whole:
                found.rows.append(one)
            if reading.tag is not None:
                found.rows.tags.append(tag)
            found.numbers.append(number)
        else:
            found.unlearnable += 1
    found.digest = digest.hexdigest()
    return found


def tokenise_texts(
    rows: Iterable[str], tokenizer: "PreTrainedTokenizerBase", max_length: int, ctx: RunContext, reading: Reading
) -> TokenRows:
    """Every text row (canonical JSON) in pieces of at most `max_length` tokens. All of it is learned; a piece begins
    with the last token of the one before, from which its own first one is predicted. Raises UserError as `tokenise`."""
    found, digest = TokenRows(), DatasetDigest()
    for batch in _batched(_of_kinds(rows, reading, digest)):
        ctx.check_stop()
        ctx.progress(found.read, 0, unit="row", phase="tokenise")
        for ids in text_ids(tokenizer, [row.text for row in batch if isinstance(row, TextRow)]):
            found.read += 1
            for start in range(0, max(len(ids) - 1, 0), max_length - 1):
                piece = ids[start : start + max_length]
                found.rows.append(Rendered(piece, [0] + [1] * (len(piece) - 1)))
                found.numbers.append(found.read)
            found.unlearnable += len(ids) < 2
    found.digest = digest.hexdigest()
    return found


def _batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, 64)):
        yield batch


def _readable(
    rows: Iterable[str], reading: Reading, digest: DatasetDigest, tags: "deque[int]"
) -> Iterator[ChatRow | CompletionRow]:
    """The conversations of the rows, and their tags."""
    for row in _of_kinds(rows, reading, digest):
        tags.append(reading.tag(row) if reading.tag else 0)
        yield from reading.conversations(row)


def _of_kinds(rows: Iterable[str], reading: Reading, digest: DatasetDigest) -> Iterator[Row]:
    """The rows, which are added to `digest`. Raises UserError for one of another kind."""
    for number, text in enumerate(rows, start=1):
        row = ROW.validate_json(text)
        if row.kind not in reading.kinds:
            raise UserError(
                f"Row {number} is a {row.kind} row; this recipe learns from {reading.words} rows.", field="data"
            )
        digest.add(hashlib.sha256(text.encode()).hexdigest())
        yield row


def teaches(row: Rendered) -> bool:
    """Is there a token to learn? Nothing comes before a row's first token to predict it from."""
    return bool(row.ids) and row.learned > row.mask[0]


def split(data: TokenRows, share: float, seed: int) -> tuple[RenderedRows, RenderedRows]:
    """Training and validation rows, each in the order of the data set. Rows are held back by their number there."""
    held = held_back(data.read, share, seed)
    if not held:
        return data.rows, RenderedRows()
    kept = [i for i, number in enumerate(data.numbers) if number not in held]
    back = [i for i, number in enumerate(data.numbers) if number in held]
    return data.rows.lessons_taken(kept), data.rows.lessons_taken(back)


class Groups(Sequence[dict[str, list[Any]]]):
    """What a data loader draws from: lessons, or packs of them. Made when they are asked for.

    Each has `input_ids` and `labels` (IGNORED where nothing is learned) of its rows laid end to end, and their
    `lengths`. More is known where somebody has said it: `tags` of its lessons, and `reference`, a number for each row.
    """

    def __init__(self, rows: RenderedRows, groups: Sequence[Sequence[int]]) -> None:
        self.rows, self._groups = rows, groups
        self.reference: array[float] | None = None  # of each row: see `objectives`

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> dict[str, list[Any]]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, list[Any]]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, list[Any]] | list[dict[str, list[Any]]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        chosen = self._groups[index]
        rows = [self.rows[i] for i in chosen]
        more: dict[str, list[Any]] = {}
        if self.rows.tags:
            more["tags"] = [self.rows.tags[i // self.rows.width] for i in chosen[:: self.rows.width]]
        if self.reference is not None:
            more["reference"] = [self.reference[i] for i in chosen]
        return more | {
            "input_ids": [token for row in rows for token in row.ids],
            "labels": [
                token if learned and i else IGNORED
                for row in rows
                for i, (token, learned) in enumerate(zip(row.ids, row.mask, strict=True))
            ],
            "lengths": [len(row.ids) for row in rows],
        }


def group(rows: RenderedRows, *, capacity: int | None, seed: int) -> Groups:
    """Single lessons, or packs of at most `capacity` tokens (of lessons of one row), mixed by the seed."""
    if capacity is None:
        width = rows.width
        return Groups(rows, [range(i * width, (i + 1) * width) for i in range(rows.lessons)])
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    lengths = rows.lengths
    packs = pack([lengths[i] for i in order], capacity)
    return Groups(rows, [[order[i] for i in one] for one in packs])


def collate(groups: Sequence[dict[str, list[Any]]]) -> dict[str, Any]:
    """One flattened batch without padding: rows laid end to end, positions counted from 0 in each.

    `input_ids`, `position_ids` and `labels` are [1, tokens]; `predict` [n] are the positions whose next token is
    learned, `targets` [n] those tokens; `row_lengths` is a list. `tags` [lessons] and `reference` [rows] are there if
    the groups have them.
    """
    import torch

    lengths = [length for one in groups for length in one["lengths"]]
    labels = torch.tensor([label for one in groups for label in one["labels"]])
    learned = (labels != IGNORED).nonzero()[:, 0]
    more = {name for name in ("tags", "reference") if groups and name in groups[0]}
    return {
        **{name: torch.tensor([value for one in groups for value in one[name]]) for name in more},
        "input_ids": torch.tensor([[token for one in groups for token in one["input_ids"]]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "labels": labels[None],
        "predict": learned - 1,
        "targets": labels[learned],
        "row_lengths": lengths,
    }


def row_slices(batch: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The rows of a flattened batch as batches of one row each."""
    start = 0
    for length in batch["row_lengths"]:
        end = start + length
        inside: torch.Tensor = (batch["predict"] >= start) & (batch["predict"] < end)
        yield {
            "input_ids": batch["input_ids"][:, start:end],
            "position_ids": batch["position_ids"][:, start:end],
            "predict": batch["predict"][inside] - start,
            "targets": batch["targets"][inside],
            "row_lengths": [length],
        }
        start = end
