"""Numbers side by side: the right deltas, and 'better' only where the interval says so."""

import math

import pytest

from project.testing import Cast
from registry import comparison
from registry.models import Score
from registry.tests.conftest import MakeVersion, score


def made(value: float, low: float | None = None, high: float | None = None, better: str = "higher") -> Score:
    return Score(metric="m", value=value, low=low, high=high, n=100, better=better)


@pytest.mark.parametrize(
    ("first", "other", "better"),
    [
        (made(0.50, 0.45, 0.55), made(0.80, 0.75, 0.85), True),
        (made(0.80, 0.75, 0.85), made(0.50, 0.45, 0.55), False),
        (made(0.50, 0.40, 0.60), made(0.55, 0.45, 0.65), None),
        (made(9.0, 8.5, 9.5, "lower"), made(4.0, 3.5, 4.5, "lower"), True),
        (made(4.0, 3.5, 4.5, "lower"), made(9.0, 8.5, 9.5, "lower"), False),
        (made(0.5), made(0.9), None),
    ],
)
def test_better_or_worse(first: Score, other: Score, better: bool | None) -> None:
    delta = comparison.delta(first, other)
    assert delta is not None
    assert delta.value == pytest.approx(other.value - first.value)
    assert delta.better is better


def test_the_interval_of_a_difference() -> None:
    """Newcombe's example for two proportions (Statistics in Medicine 17, 1998, method 10): 56/70 against 48/80.

    Wilson limits 0.6918, 0.8778 and 0.4905, 0.7003 give 0.0524 to 0.3339.
    """

    def wilson(hits: int, n: int) -> Score:
        z, p = 1.959964, hits / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return made(p, middle - half, middle + half)

    delta = comparison.delta(wilson(48, 80), wilson(56, 70))
    assert delta is not None
    assert delta.value == pytest.approx(0.2)
    assert delta.low == pytest.approx(0.0524, abs=1e-4)
    assert delta.high == pytest.approx(0.3339, abs=1e-4)
    assert delta.better is True


def test_versions_side_by_side(cast: Cast, make_version: MakeVersion) -> None:
    by = cast.actor("owner")
    one = make_version(config={"method": {"r": 8, "type": "lora"}}, facts={"parameters": 10})
    two = make_version(config={"method": {"r": 16, "type": "lora"}}, facts={"parameters": 20})
    score(one, by, exact_match=(0.4, 0.5, 0.6), perplexity=9.0)
    score(one, by, exact_match=(0.45, 0.55, 0.65))  # evaluated again: the newest counts
    score(two, by, exact_match=(0.85, 0.9, 0.95))
    score(two, by, digest="e" * 64, exact_match=0.1)
    found = cast.api("viewer").get("/api/v1/models/compare/?versions=intents:1,intents:2").json()
    assert [version["reference"] for version in found["versions"]] == ["intents:1", "intents:2"]
    lines = {(line["data_digest"][0], line["metric"]): line for line in found["scores"]}
    exact = lines["d", "exact_match"]
    assert [value["value"] for value in exact["values"]] == [0.55, 0.9]
    assert exact["deltas"][0] is None
    assert exact["deltas"][1]["value"] == pytest.approx(0.35)
    assert exact["deltas"][1]["better"] is True
    assert lines["d", "perplexity"]["values"][1] is None
    assert lines["d", "perplexity"]["better"] == "lower"
    assert lines["e", "exact_match"]["values"][0] is None
    assert found["config"] == [
        {"key": "method.r", "values": [8, 16], "differs": True},
        {"key": "method.type", "values": ["lora", "lora"], "differs": False},
    ]
    assert found["facts"][0]["values"] == [10, 20]


@pytest.mark.parametrize("names", ["", "intents:1", "intents:1,", ",".join(["intents:1"] * 6)])
def test_two_to_five_versions(cast: Cast, make_version: MakeVersion, names: str) -> None:
    make_version()
    reply = cast.api("viewer").get(f"/api/v1/models/compare/?versions={names}")
    assert reply.status_code == 400
    assert "Name 2 to 5 versions" in reply.json()["errors"]["versions"][0]
