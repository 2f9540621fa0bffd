"""Stretches of a long series and their extremes, so that a chart of a million points reads about a thousand rows.

A stretch of level 0 spans `LEAF` steps, one of the next level `FACTOR` times as many. They tell what a reader sees:
of a step that several attempts passed, the last attempt's value. A stretch is written once the series has gone beyond
it, and again when one of its points changes; what comes after the last written stretch is read from the points.
"""

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from project.jobs.models import Metric, MetricRollup
from project.jobs.upserts import upsert

LEAF = 16  # steps
FACTOR = 8
LEVELS = 8  # the widest stretch spans 33,554,432 steps
CLOSE = 64  # stretches: what lies nearer together is read by one query

Points = dict[int, float]  # value by step


class End(NamedTuple):
    """Where a series ends: its last step, and the points of the leaf that holds it, where the writer knows them."""

    step: int = -1
    leaf: Points | None = None


class Stretch(NamedTuple):
    """What is known of a stretch: its ends, and its least and greatest value with the steps where they are."""

    first: int
    last: int
    low_step: int
    low: float
    high_step: int
    high: float
    points: int


FIELDS = ("first_step", "last_step", "low_step", "low", "high_step", "high", "count")  # a Stretch, in its order


def width(level: int) -> int:
    """Steps that a stretch of this level spans."""
    return int(LEAF * FACTOR**level)


def level_for(steps: float) -> int | None:
    """The widest level whose stretches are not wider than `steps`; None: only the points are fine enough."""
    return max((level for level in range(LEVELS) if width(level) <= steps), default=None)


def ends(job_id: UUID, keys: Iterable[str]) -> dict[str, End]:
    """The last step of each of `keys` that has points."""
    found = {}
    for key in keys:
        last = Metric.objects.filter(job=job_id, key=key).order_by("-step").values_list("step", flat=True).first()
        if last is not None:
            found[key] = End(last)
    return found


def update(job_id: UUID, written: dict[str, Points], before: dict[str, End]) -> dict[str, End]:
    """Bring the stretches up to date with points that this transaction has written.

    `before` has the end of every key from before that; the answer, once this is committed. The caller holds the job's
    row.
    """
    rows: list[tuple[Any, ...]] = []
    after = dict(before)
    for key, points in written.items():
        end = before.get(key, End())
        for level, stretches in enumerate(_changed(job_id, key, points, end)):
            rows += [(key, level, bucket, *stretch) for bucket, stretch in stretches.items()]
        after[key] = _end(end, points)
    _write(job_id, rows)
    return after


def _end(before: End, points: Points) -> End:
    last = max(before.step, *points)
    leaf = {step: value for step, value in points.items() if step // LEAF == last // LEAF}
    if before.step // LEAF < last // LEAF:  # it is all ours
        return End(last, leaf)
    return End(last, None if before.leaf is None else before.leaf | leaf)


def read(job_id: UUID, key: str, level: int) -> Iterator[Stretch]:
    """A whole series: stretches of `level`, near its end narrower ones, and its last points one by one."""
    begin = 0
    for narrower in range(level, -1, -1):
        found = _stretches(job_id, key, narrower, begin // width(narrower))
        yield from (stretch for _, stretch in found)
        if found:
            begin = (found[-1][0] + 1) * width(narrower)
    for step, value in points_of(job_id, key, begin).items():
        yield _one(step, value)


def points_of(job_id: UUID, key: str, begin: int, end: int | None = None) -> Points:
    """The points from step `begin` to before `end`, ascending; of a step passed twice the last attempt's."""
    rows = Metric.objects.filter(job=job_id, key=key, step__gte=begin)
    if end is not None:
        rows = rows.filter(step__lt=end)
    return dict(rows.order_by("step", "attempt").values_list("step", "value"))


def _changed(job_id: UUID, key: str, points: Points, end: End) -> Iterator[dict[int, Stretch]]:
    """The complete stretches that `points` change, level by level, until there are none."""
    before = end.step
    after = max(before, *points)
    made: dict[int, Stretch] = {}
    for level in range(LEVELS):
        span = width(level)
        if level == 0:
            changed = {step // span for step in points} | ({before // span} if before >= 0 else set())
        else:
            changed = {bucket // FACTOR for bucket in made}
        changed.discard(after // span)  # goes on: it is written when the series has left it
        if not changed:
            return
        if level == 0:
            made = _leaves(job_id, key, points, changed, end)
        else:
            made = _wider(job_id, key, level, made, changed, before)
        yield made


def _leaves(job_id: UUID, key: str, points: Points, changed: set[int], end: End) -> dict[int, Stretch]:
    inside: dict[int, Points] = {bucket: {} for bucket in changed}
    begun = {bucket for bucket in changed if bucket <= end.step // LEAF}
    if end.leaf is not None and end.step // LEAF in begun:
        begun.remove(end.step // LEAF)
        inside[end.step // LEAF] |= end.leaf
    for first, last in _runs(begun):
        for step, value in points_of(job_id, key, first * LEAF, (last + 1) * LEAF).items():
            if step // LEAF in inside:
                inside[step // LEAF][step] = value
    for step, value in points.items():
        if step // LEAF in inside:
            inside[step // LEAF][step] = value
    return {bucket: _of(sorted(inside[bucket].items())) for bucket in changed}


def _wider(
    job_id: UUID, key: str, level: int, made: dict[int, Stretch], changed: set[int], before: int
) -> dict[int, Stretch]:
    parts: dict[int, dict[int, Stretch]] = {bucket: {} for bucket in changed}
    for first, last in _runs(bucket for bucket in changed if bucket <= before // width(level)):
        for part, stretch in _stretches(job_id, key, level - 1, first * FACTOR, (last + 1) * FACTOR):
            if part // FACTOR in parts:
                parts[part // FACTOR][part] = stretch
    for part, stretch in made.items():
        if part // FACTOR in parts:
            parts[part // FACTOR][part] = stretch
    return {bucket: _joined(stretch for _, stretch in sorted(parts[bucket].items())) for bucket in changed}


def _one(step: int, value: float) -> Stretch:
    return Stretch(step, step, step, value, step, value, 1)


def _of(points: list[tuple[int, float]]) -> Stretch:
    """What points, in the order of their steps, come to. There is at least one."""
    (low_step, low), (high_step, high) = min(points, key=_VALUE), max(points, key=_VALUE)
    return Stretch(points[0][0], points[-1][0], low_step, low, high_step, high, len(points))


_VALUE = itemgetter(1)


def _joined(parts: Iterable[Stretch]) -> Stretch:
    """Several stretches, in their order, as one. There is at least one."""
    found = list(parts)
    low = min(found, key=lambda part: part.low)
    high = max(found, key=lambda part: part.high)
    points = sum(part.points for part in found)
    return Stretch(found[0].first, found[-1].last, low.low_step, low.low, high.high_step, high.high, points)


def _runs(buckets: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each group of buckets that lie close together."""
    runs: list[tuple[int, int]] = []
    for bucket in sorted(buckets):
        if runs and bucket - runs[-1][1] <= CLOSE:
            runs[-1] = (runs[-1][0], bucket)
        else:
            runs.append((bucket, bucket))
    return runs


def _stretches(job_id: UUID, key: str, level: int, begin: int, end: int | None = None) -> list[tuple[int, Stretch]]:
    rows = MetricRollup.objects.filter(job=job_id, key=key, level=level, bucket__gte=begin)
    if end is not None:
        rows = rows.filter(bucket__lt=end)
    return [(bucket, Stretch(*rest)) for bucket, *rest in rows.order_by("bucket").values_list("bucket", *FIELDS)]


_COLUMNS = {  # name -> its type in PostgreSQL
    "key": "text",
    "level": "int",
    "bucket": "bigint",
    "first_step": "bigint",
    "last_step": "bigint",
    "low_step": "bigint",
    "low": "float8",
    "high_step": "bigint",
    "high": "float8",
    "count": "bigint",
}


def _write(job_id: UUID, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        conflict = ("job_id", "key", "level", "bucket")
        upsert("jobs_metricrollup", {"job_id": ("uuid", job_id)}, _COLUMNS, rows, conflict=conflict)
