"""Which rows of a data set a validation split holds back: the same for training and for evaluating afterwards."""

import random


def held_back(rows: int, share: float, seed: int) -> set[int]:
    """Numbers (from 1) of the held-back ones of `rows` rows; never all of them. Same numbers, same rows."""
    if share <= 0 or rows < 2:
        return set()
    order = list(range(1, rows + 1))
    random.Random(seed).shuffle(order)
    return set(order[: min(max(1, round(rows * share)), rows - 1)])
