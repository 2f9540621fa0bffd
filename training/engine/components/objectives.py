"""What a step minimises: the loss of a flattened batch (`rows.collate`), and figures for the charts.

Losses and figures are sums over the items of the batch (learned tokens, pairs or rows), so that they do not depend on
how a step is cut into batches. Figures carry no gradient.
"""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from project.contracts.runs import RunContext, UserError
from project.modeling.render import Rendered
from training.engine.components import preferences
from training.engine.components.forward import Forward, base_of
from training.engine.components.preferences import Figures
from training.engine.components.rows import Groups, RenderedRows, collate

Batch = dict[str, Any]


class Objective(ABC):
    """What is minimised: override what differs."""

    needs_reference: ClassVar[bool] = False  # what the model says of each row before it is trained: `Groups.reference`

    def arranged(self, rows: RenderedRows) -> RenderedRows:
        """The rows that it compares, made of those that were read."""
        return rows

    @abstractmethod
    def items(self, batch: Batch) -> int:
        """What the loss is a sum over."""

    @abstractmethod
    def loss(self, forward: Forward, model: Any, batch: Batch) -> tuple[torch.Tensor, Figures]:
        """The loss of the batch, and its figures."""

    def told(self, means: Mapping[str, float]) -> dict[str, float]:
        """The figures that are charted, of their means over the items."""
        return dict(means)


class Answers(Objective):
    """The negative log-likelihood of what is learned."""

    def items(self, batch: Batch) -> int:
        return len(batch["targets"])

    def loss(self, forward: Forward, model: Any, batch: Batch) -> tuple[torch.Tensor, Figures]:
        return forward.summed_loss(model, batch), {}


@dataclass(frozen=True)
class Direct(Objective):
    """DPO, conservative DPO, or IPO: see `preferences`. Lessons are a better answer and a worse one."""

    beta: float
    label_smoothing: float = 0.0
    kind: str = "sigmoid"
    needs_reference: ClassVar[bool] = True

    def items(self, batch: Batch) -> int:
        return len(batch["row_lengths"]) // 2

    def loss(self, forward: Forward, model: Any, batch: Batch) -> tuple[torch.Tensor, Figures]:
        said, lengths = of_rows(forward, model, batch)
        reference = batch["reference"].to(said.device)
        if self.kind == "ipo":
            said, reference = said / lengths, reference / lengths
            return preferences.ipo(said[0::2], said[1::2], reference[0::2], reference[1::2], beta=self.beta)
        return preferences.dpo(
            *(said[0::2], said[1::2], reference[0::2], reference[1::2]),
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )


@dataclass(frozen=True)
class Odds(Objective):
    """ORPO: the likelihood of the better answer, and its odds against the worse one."""

    beta: float

    def items(self, batch: Batch) -> int:
        return len(batch["row_lengths"]) // 2

    def loss(self, forward: Forward, model: Any, batch: Batch) -> tuple[torch.Tensor, Figures]:
        said, lengths = of_rows(forward, model, batch)
        means = said / lengths
        return preferences.orpo(means[0::2], means[1::2], -means[0::2], beta=self.beta)


@dataclass(frozen=True)
class Judgements(Objective):
    """KTO: answers that are wanted or not. Each lesson gets a second row, the same prompt with another row's answer,
    which tells how far the model has moved."""

    beta: float
    desirable_weight: float
    undesirable_weight: float
    max_length: int
    needs_reference: ClassVar[bool] = True

    def arranged(self, rows: RenderedRows) -> RenderedRows:
        """Raises UserError for a single row."""
        if len(rows) == 1:
            raise UserError(
                "One row is not enough: an answer is compared with that of another row.",
                hint="Add rows, or set another validation_split.",
                field="data",
            )
        both = RenderedRows(width=2)
        both.tags.extend(rows.tags)
        for place in range(len(rows)):
            row, other = rows[place], rows[(place + 1) % len(rows)]
            ids = row.ids[: row.mask.index(1)]
            begin = other.mask.index(1)
            both.append(row)
            mixed = Rendered(ids + other.ids[begin:], [0] * len(ids) + other.mask[begin:]).cut(self.max_length)
            both.append(mixed if mixed.learned > mixed.mask[0] else row)
        return both

    def items(self, batch: Batch) -> int:
        return len(batch["tags"])

    def loss(self, forward: Forward, model: Any, batch: Batch) -> tuple[torch.Tensor, Figures]:
        said, _ = of_rows(forward, model, batch)
        reference = batch["reference"].to(said.device)
        return preferences.kto(
            *(said[0::2], reference[0::2], batch["tags"].to(said.device) == 1),
            preferences.mismatch_kl(said[1::2], reference[1::2]),
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def told(self, means: Mapping[str, float]) -> dict[str, float]:
        """Rewards as means over the answers of one kind; there may be none of it."""
        found = {"kl": means["kl"]}
        for kind, share in (("wanted", means["wanted"]), ("unwanted", 1 - means["wanted"])):
            if share > 0:
                found[f"rewards_{kind}"] = means[f"rewards_{kind}"] / share
        if len(found) == 3:
            found["reward_margin"] = found["rewards_wanted"] - found["rewards_unwanted"]
        return found


def of_rows(forward: Forward, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability of what is learned in each row (nats, float32, summed), and how many tokens that is."""
    nll = forward.token_nll(model, batch)
    count = len(batch["row_lengths"])
    ends = torch.tensor(batch["row_lengths"], device=nll.device).cumsum(0)
    rows = torch.bucketize(batch["predict"].to(nll.device), ends, right=True)
    said = torch.zeros(count, device=nll.device).index_add(0, rows, -nll)
    return said, torch.bincount(rows, minlength=count)


def reference_of(groups: Groups, forward: Forward, model: Any, size: int, ctx: RunContext) -> "array[float]":
    """What the untrained model says of each row of `groups`, `size` groups at a time."""
    found = array("f")
    untrained, was = base_of(model), model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(groups), size):
            ctx.check_stop()
            ctx.progress(start, len(groups), unit="row", phase="reference")
            batch = collate(groups[start : start + size])
            moved = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
            found.extend(of_rows(forward, untrained, moved)[0].tolist())
    model.train(was)
    return found
