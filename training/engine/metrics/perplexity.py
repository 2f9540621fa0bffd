"""How surprised the model is by the reference: exp of the mean negative log-likelihood per token of all references.

Teacher-forced: each token of the reference, its end included, is predicted from the prompt and the reference before it.
Comparable between models with the same tokenizer only. The score of one row is its own perplexity.
"""

import math
from collections.abc import Sequence
from typing import Literal

from training.engine.intervals import bootstrap
from training.engine.metrics_registry import Case, Estimate, Need

name = "perplexity"
label = "Perplexity"
needs: Need = "likelihood"
better: Literal["higher", "lower"] = "lower"
unit = "1 is certainty"

_LIMIT = 700.0  # exp overflows above


def score(case: Case) -> float | None:
    if case.nll is None or not case.reference_tokens:
        return None
    return math.exp(min(case.nll / case.reference_tokens, _LIMIT))


def summarise(cases: Sequence[Case], scores: Sequence[float]) -> Estimate:
    rows = [(case.nll, case.reference_tokens) for case in cases if case.nll is not None and case.reference_tokens]
    mean = bootstrap(rows, lambda data: data[..., 0].sum(-1) / data[..., 1].sum(-1))
    value, low, high = (math.exp(min(nats, _LIMIT)) for nats in (mean.value, mean.low, mean.high))
    return Estimate(value, low, high, mean.n)
