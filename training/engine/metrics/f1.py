"""Overlap of words between answer and reference, as SQuAD counts it (Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250).

Words are compared without case, punctuation and articles. 1 if both are empty, 0 if only one is.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from training.engine.intervals import bootstrap
from training.engine.metrics_registry import Case, Estimate, Need

name = "f1"
label = "Word F1"
needs: Need = "answers"
better: Literal["higher", "lower"] = "higher"
unit = "mean of 0 to 1"

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def score(case: Case) -> float | None:
    if case.answer is None:
        return None
    answer, reference = words(case.answer), words(case.reference)
    shared = (Counter(answer) & Counter(reference)).total()
    if not answer or not reference:
        return float(answer == reference)
    return 2 * shared / (len(answer) + len(reference))


def summarise(cases: Sequence[Case], scores: Sequence[float]) -> Estimate:
    return bootstrap([[value] for value in scores], lambda rows: rows[..., 0].mean(-1))


def words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
