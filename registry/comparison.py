"""Versions side by side: their numbers, what differs in config and facts, and some of their answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.actions import scores
from registry.models import ModelVersion, Score

MOST = 5  # versions on one page
AnswersHook = Callable[[Sequence[ModelVersion]], list[dict[str, Any]]]
_answers: list[AnswersHook] = []


def register_answers(hook: AnswersHook) -> None:
    """For the app that keeps answers: `hook(versions)` gives [{prompt, reference, answers: [text or None, …]}]."""
    _answers.append(hook)


@dataclass(frozen=True)
class Delta:
    """How far a value is from the first version's; `better` is None where the interval contains no change."""

    value: float
    low: float | None
    high: float | None
    better: bool | None


@dataclass(frozen=True)
class Line:
    """One metric on one data set: a score per version (None: not measured), and deltas to the first version."""

    data_digest: str
    data_label: str
    metric: str
    better: str
    unit: str
    values: tuple[Score | None, ...]
    deltas: tuple[Delta | None, ...]


@dataclass(frozen=True)
class Difference:
    """One setting or fact of all versions. `differs` when they are not all the same."""

    key: str
    values: tuple[Any, ...]
    differs: bool


@dataclass(frozen=True)
class Comparison:
    versions: tuple[ModelVersion, ...]
    scores: tuple[Line, ...]
    config: tuple[Difference, ...]
    facts: tuple[Difference, ...]
    answers: tuple[dict[str, Any], ...]


def compare(versions: Sequence[ModelVersion]) -> Comparison:
    """Everything side by side. The first version is what the others are compared with."""
    return Comparison(
        versions=tuple(versions),
        scores=tuple(_lines(versions)),
        config=tuple(differences([version.config for version in versions])),
        facts=tuple(differences([version.facts for version in versions])),
        answers=tuple(answer for hook in _answers for answer in hook(versions)),
    )


def _lines(versions: Sequence[ModelVersion]) -> list[Line]:
    newest = scores.newest(versions)
    table: dict[tuple[str, str], dict[Any, Score]] = {}
    for version in versions:
        for score in newest.get(version.pk, []):
            table.setdefault((score.data_digest, score.metric), {})[version.pk] = score
    lines = []
    for (digest, metric), found in table.items():
        values = tuple(found.get(version.pk) for version in versions)
        some = next(score for score in values if score is not None)
        lines.append(
            Line(
                data_digest=digest,
                data_label=some.data_label,
                metric=metric,
                better=some.better,
                unit=some.unit,
                values=values,
                deltas=tuple(delta(values[0], value) if index else None for index, value in enumerate(values)),
            )
        )
    return lines


def delta(first: Score | None, other: Score | None) -> Delta | None:
    """`other` minus `first` with a 95 % interval from the two intervals (MOVER: Zou and Donner, 2008).

    It treats the two as independent. They saw the same rows, so the true interval is narrower: what this one calls a
    difference is one.
    """
    if first is None or other is None:
        return None
    change = other.value - first.value
    if first.low is None or first.high is None or other.low is None or other.high is None:
        return Delta(change, None, None, None)
    low = change - math.hypot(other.value - other.low, first.high - first.value)
    high = change + math.hypot(other.high - other.value, first.value - first.low)
    better = None if low <= 0 <= high else (change > 0) == (first.better == Score.Better.HIGHER)
    return Delta(change, low, high, better)


def differences(documents: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Every dotted key of some documents with each one's value; those that differ come first."""
    flat = [flatten(document) for document in documents]
    keys = list(dict.fromkeys(key for document in flat for key in document))
    rows = [
        Difference(key, values, any(value != values[0] for value in values))
        for key in keys
        for values in [tuple(document.get(key) for document in flat)]
    ]
    return sorted(rows, key=lambda row: not row.differs)


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}"""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
