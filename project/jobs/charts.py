"""Numbers over steps, drawn from few points without losing a spike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from django.db import connection

from project.jobs import rollups
from project.jobs.models import Job, Metric

PIXELS = range(10, 5001)

# One look into the index per key, instead of reading every point.
_KEYS = """
WITH RECURSIVE known(key) AS (
    SELECT MIN(key) FROM jobs_metric WHERE job_id = %s
    UNION ALL
    SELECT (SELECT MIN(key) FROM jobs_metric WHERE job_id = %s AND key > known.key) FROM known WHERE key IS NOT NULL
)
SELECT key FROM known WHERE key IS NOT NULL ORDER BY key
"""


@dataclass
class Series:
    """`steps` ascend. `count` is how many points there are; of too many, each stretch has its least and greatest."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    count: int = 0


def keys_of(job: Job) -> list[str]:
    """The names of all numbers of a job."""
    pk = job.pk if connection.vendor == "postgresql" else job.pk.hex
    with connection.cursor() as cursor:
        cursor.execute(_KEYS, [pk, pk])
        return sorted(key for (key,) in cursor.fetchall())


def series(job: Job, keys: Iterable[str], *, px: int = 800) -> dict[str, Series]:
    """Each key's points for a chart `px` pixels wide: all of them, or per pixel the least and the greatest."""
    return {key: _series(job, key, px) for key in keys}


def _series(job: Job, key: str, px: int) -> Series:
    few = _few(job, key, 2 * px)
    if few is not None:
        return Series(list(few), list(few.values()), len(few))
    points = Metric.objects.filter(job=job, key=key)
    first = points.order_by("step").values_list("step", flat=True)[0]
    last = points.order_by("-step").values_list("step", flat=True)[0]
    return _thinned(_stretches(job, key, (last - first + 1) / px), first, last, px)


def _few(job: Job, key: str, most: int) -> rollups.Points | None:
    """All points, of a step passed twice the last attempt's; None where there are more than `most`."""
    rows = Metric.objects.filter(job=job, key=key).order_by("step", "attempt").values_list("step", "value")
    found = list(rows[: most + 1])
    return dict(found) if len(found) <= most else None


def _stretches(job: Job, key: str, steps: float) -> Iterator[rollups.Stretch]:
    """The whole series in stretches not wider than `steps`."""
    level = rollups.level_for(steps)
    return rollups.read(job.pk, key, -1 if level is None else level)


def _thinned(stretches: Iterable[rollups.Stretch], first: int, last: int, px: int) -> Series:
    """Per pixel the least and the greatest, where they are, and the last point."""
    width = -(-(last - first + 1) // (px - 1))  # steps per pixel; one pixel is left for the last point
    lows: dict[int, tuple[float, int]] = {}
    highs: dict[int, tuple[float, int]] = {}
    count, end = 0, rollups.Stretch(0, 0, 0, 0.0, 0, 0.0, 0)
    for end in stretches:
        count += end.points
        low, high = (end.low, end.low_step), (end.high, end.high_step)
        pixel = (end.low_step - first) // width
        lows[pixel] = min(lows.get(pixel, low), low)
        pixel = (end.high_step - first) // width
        highs[pixel] = max(highs.get(pixel, high), high)
    drawn = {step: value for extremes in (lows, highs) for value, step in extremes.values()}
    if end.points == 1:
        drawn[end.last] = end.low
    steps = sorted(drawn)
    return Series(steps, [drawn[step] for step in steps], count)
