"""The answers of an evaluation, read from its artifact; and two evaluations side by side, row by row."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import fmean, stdev
from typing import Any, Literal

from project.kernel import artifacts
from project.kernel.errors import Invalid, NotReady
from registry.actions import scores
from registry.comparison import MOST
from registry.models import ModelVersion
from training.models import Evaluation

FILE = "answers.jsonl"
VERDICTS = ("right", "wrong")
CHANGES = ("better", "worse", "same")
Change = Literal["better", "worse", "same"]
Z = 1.959963984540054  # two-sided 95 % of a standard normal


@dataclass(frozen=True)
class Answer:
    """One row: what was asked, answered and wanted. `row` counts from 1 in the data set."""

    row: int
    prompt: str
    answer: str | None
    reference: str
    finish_reason: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def right(self) -> bool | None:
        """None where nobody measured exact match."""
        exact = self.scores.get("exact_match")
        return None if exact is None else exact >= 1

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "right": self.right}


@dataclass(frozen=True)
class Slice:
    """Some of many: `total` is how many there are."""

    items: list[Any]
    total: int


def read(evaluation: Evaluation) -> Iterator[Answer]:
    """Every answer in the order of the data set. Raises NotReady before the evaluation has ended well."""
    if evaluation.answers is None:
        raise NotReady(f"This evaluation is {evaluation.state}; it has answers once it has succeeded.")
    with artifacts.open_file(evaluation.answers, FILE) as file:
        for line in file:
            yield Answer(**json.loads(line))


def some(evaluation: Evaluation, *, offset: int, limit: int, verdict: str = "", search: str = "") -> Slice:
    """`limit` answers from `offset` on, of those that are 'right' or 'wrong', or hold `search` somewhere."""
    if verdict and verdict not in VERDICTS:
        raise Invalid(errors={"verdict": [f"Use one of: {', '.join(VERDICTS)}."]})
    wanted, words = {"right": True, "wrong": False}.get(verdict), search.casefold()
    found, total = [], 0
    for answer in read(evaluation):
        if verdict and answer.right is not wanted:
            continue
        if words and words not in f"{answer.prompt}\n{answer.answer}\n{answer.reference}".casefold():
            continue
        if offset <= total < offset + limit:
            found.append(answer)
        total += 1
    return Slice(found, total)


@dataclass(frozen=True)
class Difference:
    """One metric of two evaluations. `change` is second minus first, `low` to `high` its 95 % confidence interval.

    `verdict` is 'better', 'worse', or 'unclear' when the interval contains no change.
    """

    metric: str
    label: str
    better: str
    unit: str
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    change: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Pair:
    """One row that both were asked. `change` says how the second did against the first."""

    row: int
    prompt: str
    reference: str
    answers: tuple[str | None, str | None]
    scores: tuple[Mapping[str, float], Mapping[str, float]]
    change: Change


@dataclass(frozen=True)
class Comparison:
    first: Evaluation
    second: Evaluation
    measured_by: str
    differences: list[Difference]
    pairs: list[Pair]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows got better, got worse, stayed the same."""
        found = dict.fromkeys(CHANGES, 0)
        for pair in self.pairs:
            found[pair.change] += 1
        return found

    def some(self, *, offset: int, limit: int, change: str = "") -> Slice:
        if change and change not in CHANGES:
            raise Invalid(errors={"change": [f"Use one of: {', '.join(CHANGES)}."]})
        wanted = [pair for pair in self.pairs if not change or pair.change == change]
        return Slice(wanted[offset : offset + limit], len(wanted))


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """`second` against `first`, on the rows that both were asked. Raises Invalid when there are none, NotReady."""
    if first.rows_digest != second.rows_digest:
        raise Invalid(
            errors={"evaluations": [f"They are about different rows: {first.data_label} and {second.data_label}."]}
        )
    mine = {answer.row: answer for answer in read(first)}
    shared = [(mine[answer.row], answer) for answer in read(second) if answer.row in mine]
    if not shared:
        raise Invalid(errors={"evaluations": ["They have no row in common; evaluate both without a limit."]})
    metric = _main_metric(first, second)
    pairs = [
        Pair(a.row, a.prompt, a.reference, (a.answer, b.answer), (a.scores, b.scores), _change(a, b, metric, first))
        for a, b in shared
    ]
    metrics = [name for name in first.score if name in second.score]
    return Comparison(first, second, metric, [_difference(name, first, second, shared) for name in metrics], pairs)


def _main_metric(first: Evaluation, second: Evaluation) -> str:
    """By what a row counts as better or worse: exact match, else the first metric that both have."""
    shared = [name for name in first.score if name in second.score]
    if not shared:
        raise Invalid(errors={"evaluations": ["They have no metric in common."]})
    return "exact_match" if "exact_match" in shared else shared[0]


def _change(a: Answer, b: Answer, metric: str, evaluation: Evaluation) -> Change:
    before, after = a.scores.get(metric), b.scores.get(metric)
    if before is None or after is None or before == after:
        return "same"
    return "better" if (after > before) == _more_is_better(evaluation, metric) else "worse"


def _more_is_better(evaluation: Evaluation, metric: str) -> bool:
    return bool(evaluation.score[metric].get("better", scores.direction(metric)) == "higher")


def _difference(
    metric: str, first: Evaluation, second: Evaluation, shared: Sequence[tuple[Answer, Answer]]
) -> Difference:
    a, b = first.score[metric], second.score[metric]
    change, low, high = _paired(metric, a, b, shared) or _independent(a, b)
    clear = low is not None and high is not None and not low <= 0 <= high
    verdict = "unclear" if not clear else "better" if (change > 0) == _more_is_better(first, metric) else "worse"
    return Difference(
        metric, a.get("label", metric), a.get("better", "higher"), a.get("unit", ""), a, b, change, low, high, verdict
    )


Interval = tuple[float, float | None, float | None]


def _paired(
    metric: str, a: Mapping[str, Any], b: Mapping[str, Any], shared: Sequence[tuple[Answer, Answer]]
) -> Interval | None:
    """The mean change per row with its interval, for metrics that are means over rows, when all rows are shared.

    Both were asked the same rows, so the rows' own difficulty cancels out: much sharper than two separate intervals.
    """
    values = [(x.scores[metric], y.scores[metric]) for x, y in shared if metric in x.scores and metric in y.scores]
    whole = len(values) == a["n"] == b["n"] and len(values) > 1
    if (
        not whole
        or not _is_mean(a["value"], [x for x, _ in values])
        or not _is_mean(b["value"], [y for _, y in values])
    ):
        return None
    changes = [y - x for x, y in values]
    mean = fmean(changes)
    half = Z * stdev(changes) / math.sqrt(len(changes))
    # Where every row changed alike, this interval would have no width, which is too sure of other rows.
    return (mean, mean - half, mean + half) if half else None


def _is_mean(value: float, numbers: Sequence[float]) -> bool:
    return math.isclose(value, fmean(numbers), rel_tol=1e-6, abs_tol=1e-9)


def _independent(a: Mapping[str, Any], b: Mapping[str, Any]) -> Interval:
    """From the two intervals (MOVER: Zou and Donner, 2008), as if they had nothing to do with each other."""
    change = b["value"] - a["value"]
    if None in (a.get("low"), a.get("high"), b.get("low"), b.get("high")):
        return change, None, None
    low = change - math.hypot(b["value"] - b["low"], a["high"] - a["value"])
    return change, low, change + math.hypot(b["high"] - b["value"], a["value"] - a["low"])


def side_by_side(versions: Sequence[ModelVersion], *, most: int = 10) -> list[dict[str, Any]]:
    """Some answers of several versions to the same questions, from their newest evaluations on the same rows.

    For the registry's comparison: [{row, prompt, reference, answers: [text or None, …]}]. Rows that were answered
    differently come first.
    """
    newest: dict[str, dict[Any, Evaluation]] = {}
    found = Evaluation.objects.filter(version__in=versions[:MOST], answers__isnull=False)
    for evaluation in found.select_related("data_version__dataset", "answers", "job").order_by("id"):
        newest.setdefault(evaluation.rows_digest, {})[evaluation.version_id] = evaluation
    shared = max(newest.values(), key=len, default={})
    if len(shared) < 2:
        return []
    tables = [
        {answer.row: answer for answer in islice(read(shared[version.pk]), 500)} if version.pk in shared else None
        for version in versions
    ]
    full = [table for table in tables if table is not None]
    rows = [row for row in full[0] if all(row in table for table in full)]
    rows.sort(key=lambda row: len({table[row].answer for table in full}) == 1)
    return [
        {
            "row": row,
            "prompt": full[0][row].prompt,
            "reference": full[0][row].reference,
            "answers": [table[row].answer if table else None for table in tables],
        }
        for row in rows[:most]
    ]
