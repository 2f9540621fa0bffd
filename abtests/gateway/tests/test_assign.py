"""Shares come out as asked, everybody keeps theirs, and one test says nothing about the next."""

import pytest

from abtests.gateway.assign import choose, point

UNITS = [f"user-{number}" for number in range(20_000)]


@pytest.mark.parametrize("weights", [(50, 50), (90, 10), (1, 1, 2), (1, 0, 3)])
def test_shares_come_out_as_asked(weights: tuple[int, ...]) -> None:
    counts = [0] * len(weights)
    for unit in UNITS:
        counts[choose(weights, point("key", "salt", unit))] += 1
    expected = [weight / sum(weights) * len(UNITS) for weight in weights]
    chi_square = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True) if e)
    assert chi_square < 16  # p < 0.001 for up to two degrees of freedom; the units are fixed, so it never flickers
    assert all(count == 0 for count, weight in zip(counts, weights, strict=True) if not weight)


def test_a_unit_always_stands_at_the_same_point_in_the_unit_interval() -> None:
    points = [point("key", "salt", unit) for unit in UNITS]
    assert points == [point("key", "salt", unit) for unit in UNITS]
    assert all(0 <= at < 1 for at in points)
    assert point("key", "salt", "user-1") == 0.26683482756617327  # golden: a change here moves everybody


def test_another_salt_and_another_workspace_mix_anew() -> None:
    first = [choose((1, 1), point("key", "salt", unit)) for unit in UNITS]
    for key, salt in (("key", "other"), ("other", "salt")):
        second = [choose((1, 1), point(key, salt, unit)) for unit in UNITS]
        same = sum(a == b for a, b in zip(first, second, strict=True))
        assert abs(same / len(UNITS) - 0.5) < 0.02


def test_growing_the_last_arm_only_takes_from_its_neighbour() -> None:
    before = {unit: choose((90, 10), point("key", "salt", unit)) for unit in UNITS}
    after = {unit: choose((70, 30), point("key", "salt", unit)) for unit in UNITS}
    assert all(after[unit] == 1 for unit in UNITS if before[unit] == 1)


def test_edges() -> None:
    assert choose((0, 5, 0), 0.0) == 1 and choose((0, 5, 0), 1 - 2**-53) == 1
    with pytest.raises(ValueError, match="no arm"):
        choose((0, 0), 0.5)
