"""What the counts of a test look like, in words and bars. It compares numbers; it claims nothing about chance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from abtests.actions.abtests import METRICS
from abtests.counting.arms import ArmCount, Results

FEW = 30  # users per variant, below which even a large difference says little


@dataclass(frozen=True)
class Metric:
    """One number per arm, and which way is good ('' when that depends)."""

    key: str
    label: str
    value: Callable[[ArmCount], float | None]
    say: Callable[[float], str]
    better: Literal["higher", "lower", ""]
    based_on: Callable[[ArmCount], str]
    top: float | None = None  # the value of a full bar; None: the largest of the arms


def _seconds(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


MEASURES = {
    "rating": Metric(
        "rating",
        METRICS["rating"],
        lambda arm: arm.mean_rating,
        lambda value: f"{value:.2f} of 5",
        "higher",
        lambda arm: _plural(arm.ratings, "rating"),
        5.0,
    ),
    "thumb": Metric(
        "thumb",
        METRICS["thumb"],
        lambda arm: arm.up_share,
        _share,
        "higher",
        lambda arm: f"{arm.thumbs_up:,} of {_plural(arm.thumbs, 'thumb')}",
        1.0,
    ),
    "error_rate": Metric(
        "error_rate",
        METRICS["error_rate"],
        lambda arm: arm.error_share,
        _share,
        "lower",
        lambda arm: f"{arm.errors:,} of {_plural(arm.answers, 'answer')}",
        1.0,
    ),
    "latency": Metric(
        "latency",
        METRICS["latency"],
        lambda arm: arm.latency_p50_ms,
        _seconds,
        "lower",
        lambda arm: f"95 % within {_seconds(arm.latency_p95_ms)}" if arm.latency_p95_ms is not None else "",
    ),
    "length": Metric(
        "length",
        METRICS["length"],
        lambda arm: arm.tokens_per_answer,
        lambda value: f"{value:.0f} tokens",
        "",
        lambda arm: _plural(arm.answers, "answer"),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One arm's number in a row. `bar` is 0 to 1; `leads` marks the better one when they differ."""

    key: str
    text: str
    note: str
    bar: float | None
    leads: bool


@dataclass(frozen=True)
class Row:
    label: str
    better: str
    chosen: bool
    cells: list[Cell]


def rows(results: Results, metrics: list[str]) -> list[Row]:
    """One row per metric: the test's own first, in its order."""
    order = [name for name in metrics if name in MEASURES]
    order += [name for name in MEASURES if name not in order]
    return [_row(MEASURES[name], results, chosen=name in metrics) for name in order]


def _row(metric: Metric, results: Results, *, chosen: bool) -> Row:
    values = {arm.key: metric.value(arm) for arm in results.arms}
    known = [value for value in values.values() if value is not None]
    top = metric.top or max(known, default=0)
    best = leader(metric, results)
    return Row(
        label=metric.label,
        better=f"{metric.better} is better" if metric.better else "long or short: that depends",
        chosen=chosen,
        cells=[
            Cell(
                key=arm.key,
                text="–" if (value := values[arm.key]) is None else metric.say(value),
                note=metric.based_on(arm),
                bar=None if value is None else (value / top if top else 0.0),
                leads=arm is best,
            )
            for arm in results.arms
        ],
    )


def leader(metric: Metric, results: Results) -> ArmCount | None:
    """The arm with the better number; None while fewer than two have one, or the best are equal as they are shown."""
    known = [(value, arm) for arm in results.arms if (value := metric.value(arm)) is not None]
    if len(known) < 2 or not metric.better:
        return None
    known.sort(key=lambda pair: pair[0], reverse=metric.better == "higher")
    return known[0][1] if metric.say(known[0][0]) != metric.say(known[1][0]) else None


def headline(results: Results, metrics: list[str]) -> str:
    """One sentence: where the test stands on what matters most."""
    metric = MEASURES.get(metrics[0] if metrics else "rating", MEASURES["rating"])
    if not results.units:
        return "Nobody has taken part yet."
    people = f"{_plural(results.units, 'user')} so far"
    known = [arm for arm in results.arms if metric.value(arm) is not None]
    if len(known) < 2:
        return f"{people}. Nothing to compare yet: {metric.label.lower()} is not known for two variants."
    best = leader(metric, results)
    if best is None and metric.better:
        return f"{people}. On {metric.label.lower()} the best variants are equal."
    rest = " and ".join(f"{_said(metric, arm)} for {arm.version}" for arm in known if arm is not best)
    if best is None:
        return f"{people}. {metric.label}: {rest}."
    return f"{people}. {best.version} is ahead on {metric.label.lower()}: {_said(metric, best)}, against {rest}."


def _said(metric: Metric, arm: ArmCount) -> str:
    value = metric.value(arm)
    return "–" if value is None else metric.say(value)


def caution(results: Results) -> str:
    """What these numbers are not."""
    fewest = min((arm.units for arm in results.arms), default=0)
    words = (
        "These are counts: what happened so far. They don't say yet whether the difference would stay; the statistics "
        "for that come in a later release."
    )
    if fewest < FEW:
        return f"{words} With fewer than {FEW} users in a variant, a lead is most likely chance."
    return f"{words} The closer the numbers, the more likely a lead is chance."
