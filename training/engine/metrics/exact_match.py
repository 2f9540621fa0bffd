"""Share of answers that equal the reference, character by character, after white space at both ends is taken off.

JSON is compared as text: `{"a":1}` and `{"a": 1}` differ, because a model is trained to write one of them.
"""

from collections.abc import Sequence
from typing import Literal

from training.engine.intervals import wilson
from training.engine.metrics_registry import Case, Estimate, Need

name = "exact_match"
label = "Exact match"
needs: Need = "answers"
better: Literal["higher", "lower"] = "higher"
unit = "share of rows"


def score(case: Case) -> float | None:
    return None if case.answer is None else float(case.answer.strip() == case.reference.strip())


def summarise(cases: Sequence[Case], scores: Sequence[float]) -> Estimate:
    return wilson(round(sum(scores)), len(scores))
