"""What a metric is. One file in `training/engine/metrics/` adds one; it imports nothing heavy at its top."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from project.contracts.plugins import Plugins

Need = Literal["answers", "likelihood", "timing"]


@dataclass(frozen=True, slots=True)
class Case:
    """One row after the model was asked. Fields that no chosen metric needs are None.

    `nll` is the summed negative log-likelihood (nats) of the reference's `reference_tokens`; `seconds` is the time one
    request took by itself, measured on a few rows only.
    """

    prompt: str
    reference: str
    answer: str | None = None
    nll: float | None = None
    reference_tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % confidence interval, from `n` rows."""

    value: float
    low: float
    high: float
    n: int


class Metric(Protocol):
    """`needs` says what must be measured; `better` which direction is good; `unit` what a value of 1 means."""

    name: str
    label: str
    needs: Need
    better: Literal["higher", "lower"]
    unit: str

    def score(self, case: Case) -> float | None:
        """The metric of one row, or None if the row does not have what is needed."""

    def summarise(self, cases: Sequence[Case], scores: Sequence[float]) -> Estimate:
        """The metric of all rows that have a score. There is at least one."""


METRICS: Plugins[Metric] = Plugins(
    kind="metric",
    group="tuneloop.metrics",
    packages=("training.engine.metrics",),
    required=("label", "needs", "better", "unit", "score", "summarise"),
)
