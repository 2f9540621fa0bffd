"""Who gets which arm: everybody keeps theirs, and shares come out as asked. Pure arithmetic on a keyed hash."""

import hashlib
import hmac
from collections.abc import Sequence


def point(key: str, salt: str, unit: str) -> float:
    """Where `unit` stands in [0, 1): uniform over units, the same every time, and not to be guessed without `key`."""
    digest = hmac.new(key.encode(), f"{salt}\0{unit}".encode(errors="replace"), hashlib.sha256).digest()
    return int.from_bytes(digest[:7]) / 2**56  # a float has 53 bits: eight bytes could round up to 1


def choose(weights: Sequence[int], at: float) -> int:
    """The arm at `at`, arms being laid side by side, each as wide as its weight. Raises ValueError if all are 0.

    An arm keeps its place while the arms before it keep their weights, so that growing the last arm of a roll-out only
    takes people from the one before it.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError("no arm has a weight")
    left = 0
    for index, weight in enumerate(weights):
        left += weight
        if at * total < left:
            return index
    return max(index for index, weight in enumerate(weights) if weight)
