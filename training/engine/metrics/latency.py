"""Median seconds from a prompt to its whole answer, for one request at a time on this machine.

Measured on a few rows after a warm-up, without batching; it depends on the machine and on what else runs there.
"""

from collections.abc import Sequence
from typing import Literal

from training.engine.intervals import bootstrap
from training.engine.metrics_registry import Case, Estimate, Need

name = "latency"
label = "Latency"
needs: Need = "timing"
better: Literal["higher", "lower"] = "lower"
unit = "seconds"


def score(case: Case) -> float | None:
    return case.seconds


def summarise(cases: Sequence[Case], scores: Sequence[float]) -> Estimate:
    import numpy as np

    return bootstrap([[value] for value in scores], lambda rows: np.median(rows[..., 0], axis=-1))
