"""Numbers over steps, drawn from few points without losing a spike."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from django.db.models import Count, Exists, F, IntegerField, Max, Min, OuterRef, QuerySet
from django.db.models.functions import Cast

from project.jobs.models import Job, Metric

PIXELS = range(10, 5001)


@dataclass
class Series:
    """`steps` ascend. `count` is how many points there are; of too many, each stretch has its least and greatest."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    count: int = 0


def keys_of(job: Job) -> list[str]:
    """The names of all numbers of a job."""
    return sorted(Metric.objects.filter(job=job).order_by().values_list("key", flat=True).distinct())


def series(job: Job, keys: Iterable[str], *, px: int = 800) -> dict[str, Series]:
    """Each key's points for a chart `px` pixels wide: all of them, or per pixel the least and the greatest."""
    return {key: _series(job, key, px) for key in keys}


def _series(job: Job, key: str, px: int) -> Series:
    points = _newest(Metric.objects.filter(job=job, key=key), job)
    ends = points.aggregate(first=Min("step"), last=Max("step"), count=Count("step"))
    if not ends["count"]:
        return Series()
    if ends["count"] <= 2 * px:
        rows: Iterable[tuple[int, float]] = points.order_by("step").values_list("step", "value")
    else:
        rows = _thinned(points, ends["first"], ends["last"], px)
    drawn = Series(count=ends["count"])
    for step, value in rows:
        drawn.steps.append(step)
        drawn.values.append(value)
    return drawn


def _newest(points: "QuerySet[Metric]", job: Job) -> "QuerySet[Metric]":
    """Of a step that several attempts passed, the last attempt's number."""
    if job.attempt <= 1:
        return points
    later = Metric.objects.filter(job=OuterRef("job"), key=OuterRef("key"), step=OuterRef("step"))
    return points.exclude(Exists(later.filter(attempt__gt=OuterRef("attempt"))))


def _thinned(points: "QuerySet[Metric]", first: int, last: int, px: int) -> Iterable[tuple[int, float]]:
    width = max(1, -(-(last - first + 1) // px))  # steps per pixel
    stretch = Cast((F("step") - first) / width, IntegerField())
    grouped = (
        points.order_by()
        .annotate(stretch=stretch)
        .values("stretch")
        .annotate(begin=Min("step"), end=Max("step"), least=Min("value"), greatest=Max("value"))
        .order_by("stretch")
    )
    for row in grouped:
        if row["begin"] == row["end"]:
            yield row["begin"], row["least"]
        else:  # where in the stretch each lies can't be seen on one pixel
            yield row["begin"], row["least"]
            yield row["end"], row["greatest"]
