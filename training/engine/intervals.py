"""95 % confidence intervals."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from training.engine.metrics_registry import Estimate

Z = 1.959963984540054  # two-sided 95 % of a standard normal
RESAMPLES = 2000


def wilson(successes: int, n: int) -> Estimate:
    """A share and its Wilson score interval, which is right for few rows and for shares near 0 and 1 too.

    Wilson 1927; https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval
    """
    share = successes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Estimate(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)), n)


def bootstrap(rows: Sequence[Sequence[float]], statistic: Callable[[Any], Any], *, seed: int = 0) -> Estimate:
    """A statistic and its percentile bootstrap interval (Efron 1979), by resampling whole rows.

    `rows` are n rows of numbers; `statistic` takes an array [..., n, numbers] and returns [...].
    """
    import numpy as np

    data = np.asarray(rows, dtype=np.float64)
    n = len(data)
    chance = np.random.default_rng(seed)
    step = max(1, 2_000_000 // n)  # resamples at once: bounds the memory
    drawn = [
        statistic(data[chance.integers(0, n, size=(min(step, RESAMPLES - start), n))])
        for start in range(0, RESAMPLES, step)
    ]
    low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
    value = float(statistic(data))
    return Estimate(value, min(float(low), value), max(float(high), value), n)  # rounding must not leave it outside
