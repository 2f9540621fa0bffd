"""Rows of a data set as token ids and labels, in the groups that a training step takes."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from project.contracts.rows import ChatRow, CompletionRow, DatasetDigest, Row, row_hash
from project.contracts.runs import RunContext, UserError
from project.modeling.render import Rendered, TemplateError, render_row
from training.engine.components.packing import pack
from training.engine.splits import held_back

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a position that is not learned


@dataclass
class TokenRows:
    """Rendered rows that teach something, and what happened to the others. Lengths are in tokens."""

    rows: list[Rendered] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of `rows`, from 1 in the data set
    read: int = 0
    truncated: int = 0
    dropped_tokens: int = 0
    unlearnable: int = 0
    digest: str = ""

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def learned(self) -> int:
        return sum(row.learned for row in self.rows)


def tokenise(rows: Iterable[Row], tokenizer: "PreTrainedTokenizerBase", max_length: int, ctx: RunContext) -> TokenRows:
    """Render every row. Those longer than `max_length` are cut, those without a learned token left out; both counted.

    Raises UserError for a row of another kind or one that the chat template refuses, with its number (from 1).
    """
    found = TokenRows()
    digest = DatasetDigest()
    for number, row in enumerate(rows, start=1):
        if number % 256 == 1:
            ctx.check_stop()
            ctx.progress(number - 1, 0, unit="row", phase="tokenise")
        if not isinstance(row, ChatRow | CompletionRow):
            raise UserError(
                f"Row {number} is a {row.kind} row; this recipe learns from chat and completion rows.", field="data"
            )
        digest.add(row_hash(row))
        found.read = number
        try:
            rendered = render_row(tokenizer, row, max_length=max_length)
        except TemplateError as error:
            raise UserError(f"Row {number}: {error}", hint=error.hint, field=error.field) from error
        found.truncated += rendered.dropped > 0
        found.dropped_tokens += rendered.dropped
        if teaches(rendered):
            found.rows.append(rendered)
            found.numbers.append(number)
        else:
            found.unlearnable += 1
    found.digest = digest.hexdigest()
    return found


def teaches(row: Rendered) -> bool:
    """Is there a token to learn? Nothing comes before a row's first token to predict it from."""
    return bool(row.ids) and row.learned > row.mask[0]


def split(data: TokenRows, share: float, seed: int) -> tuple[list[Rendered], list[Rendered]]:
    """Training and validation rows, each in the order of the data set. Rows are held back by their number there."""
    held = held_back(data.read, share, seed)
    pairs = list(zip(data.numbers, data.rows, strict=True))
    return [row for number, row in pairs if number not in held], [row for number, row in pairs if number in held]


def group(rows: Sequence[Rendered], *, capacity: int | None, seed: int) -> list[dict[str, list[int]]]:
    """What a data loader draws from: single rows, or packs of at most `capacity` tokens, mixed by the seed."""
    if capacity is None:
        return [_joined([row]) for row in rows]
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    return [_joined([shuffled[i] for i in indices]) for indices in pack([len(row.ids) for row in shuffled], capacity)]


def _joined(rows: Sequence[Rendered]) -> dict[str, list[int]]:
    return {
        "input_ids": [token for row in rows for token in row.ids],
        "labels": [
            token if learned and i else IGNORED
            for row in rows
            for i, (token, learned) in enumerate(zip(row.ids, row.mask, strict=True))
        ],
        "lengths": [len(row.ids) for row in rows],
    }


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
