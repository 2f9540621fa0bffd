"""Rows of a data set as token ids and labels, in the groups that a training step takes."""

import hashlib
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from project.contracts.rows import ROW, ChatRow, CompletionRow, DatasetDigest
from project.contracts.runs import RunContext, UserError
from project.modeling.render import Rendered, TemplateError, render_rows
from training.engine.components.packing import pack
from training.engine.splits import held_back

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a position that is not learned


class RenderedRows(Sequence[Rendered]):
    """Rendered rows laid end to end: 5 bytes a token, where lists of numbers take about 50.

    `ids` are all their tokens (int32), `mask` what is learned of these (bytes of 0 and 1), `ends[i]` where row i begins
    and `ends[i + 1]` where it ends; `dropped` as of each row.
    """

    __slots__ = ("dropped", "ends", "ids", "mask")

    def __init__(self, rows: Iterable[Rendered] = ()) -> None:
        self.ids, self.mask = array("i"), bytearray()
        self.ends, self.dropped = array("q", [0]), array("q")
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

    def taken(self, indices: Iterable[int]) -> "RenderedRows":
        """These rows, in this order."""
        some = RenderedRows()
        for i in indices:
            start, end = self.ends[i], self.ends[i + 1]
            some.ids += self.ids[start:end]
            some.mask += self.mask[start:end]
            some.ends.append(len(some.ids))
            some.dropped.append(self.dropped[i])
        return some

    @property
    def lengths(self) -> list[int]:
        """In tokens."""
        return [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]


@dataclass
class TokenRows:
    """Rendered rows that teach something, and what happened to the others. Lengths are in tokens."""

    rows: RenderedRows = field(default_factory=RenderedRows)
    numbers: "array[int]" = field(default_factory=lambda: array("q"))  # of `rows`, from 1 in the data set
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


def tokenise(rows: Iterable[str], tokenizer: "PreTrainedTokenizerBase", max_length: int, ctx: RunContext) -> TokenRows:
    """Render every row (canonical JSON). Those longer than `max_length` are cut, those without a learned token left
    out; both counted.

    Raises UserError for a row of another kind or one that the chat template refuses, with its number (from 1).
    """
    found = TokenRows()
    digest = DatasetDigest()
    for number, rendered in enumerate(render_rows(tokenizer, _readable(rows, digest), max_length=max_length), start=1):
        if number % 256 == 1:
            ctx.check_stop()
            ctx.progress(number - 1, 0, unit="row", phase="tokenise")
        if isinstance(rendered, TemplateError):
            raise UserError(f"Row {number}: {rendered}", hint=rendered.hint, field=rendered.field) from rendered
        found.read = number
        found.truncated += rendered.dropped > 0
        found.dropped_tokens += rendered.dropped
        if teaches(rendered):
            found.rows.append(rendered)
            found.numbers.append(number)
        else:
            found.unlearnable += 1
    found.digest = digest.hexdigest()
    return found


def _readable(rows: Iterable[str], digest: DatasetDigest) -> Iterator[ChatRow | CompletionRow]:
    """The rows, which are added to `digest`. Raises UserError for one that has no turns."""
    for number, text in enumerate(rows, start=1):
        row = ROW.validate_json(text)
        if not isinstance(row, ChatRow | CompletionRow):
            raise UserError(
                f"Row {number} is a {row.kind} row; this recipe learns from chat and completion rows.", field="data"
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
    return data.rows.taken(kept), data.rows.taken(back)


class Groups(Sequence[dict[str, list[int]]]):
    """What a data loader draws from: rows, or packs of them. Made when they are asked for.

    Each has `input_ids` and `labels` (IGNORED where nothing is learned) of its rows laid end to end, and their
    `lengths`.
    """

    def __init__(self, rows: RenderedRows, groups: Sequence[Sequence[int]]) -> None:
        self._rows, self._groups = rows, groups

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> dict[str, list[int]]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, list[int]]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, list[int]] | list[dict[str, list[int]]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        rows = [self._rows[i] for i in self._groups[index]]
        return {
            "input_ids": [token for row in rows for token in row.ids],
            "labels": [
                token if learned and i else IGNORED
                for row in rows
                for i, (token, learned) in enumerate(zip(row.ids, row.mask, strict=True))
            ],
            "lengths": [len(row.ids) for row in rows],
        }


def group(rows: RenderedRows, *, capacity: int | None, seed: int) -> Groups:
    """Single rows, or packs of at most `capacity` tokens, mixed by the seed."""
    if capacity is None:
        return Groups(rows, [(i,) for i in range(len(rows))])
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    lengths = rows.lengths
    packs = pack([lengths[i] for i in order], capacity)
    return Groups(rows, [[order[i] for i in one] for one in packs])


def collate(groups: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """One flattened batch without padding: rows laid end to end, positions counted from 0 in each.

    `input_ids`, `position_ids` and `labels` are [1, tokens]; `predict` [n] are the positions whose next token is
    learned, `targets` [n] those tokens; `row_lengths` is a list.
    """
    import torch

    lengths = [length for one in groups for length in one["lengths"]]
    labels = torch.tensor([label for one in groups for label in one["labels"]])
    learned = (labels != IGNORED).nonzero()[:, 0]
    return {
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
