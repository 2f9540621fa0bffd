"""What people think, in numbers: per version, per day and per type of feedback."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import Avg, Count, Q, QuerySet
from django.db.models.functions import TruncDate

from abtests.models import Feedback, Thumb

DAYS = 90  # days shown at most, newest last


@dataclass(frozen=True)
class Tally:
    """Votes of one group. `mean_rating` (1 to 5) and `up_share` (0 to 1) are None without votes of that sort."""

    label: str
    votes: int
    ratings: int
    mean_rating: float | None
    thumbs: int
    thumbs_up: int
    corrections: int
    comments: int
    id: str = ""

    @property
    def up_share(self) -> float | None:
        return self.thumbs_up / self.thumbs if self.thumbs else None

    def as_dict(self) -> dict[str, Any]:
        data = {**asdict(self), "up_share": self.up_share}
        return data if self.id else {name: value for name, value in data.items() if name != "id"}


@dataclass(frozen=True)
class FeedbackStatistics:
    """All votes together and apart. `histogram` counts ratings of 1 to 5."""

    total: Tally
    histogram: dict[int, int]
    versions: list[Tally]
    days: list[Tally]
    types: list[Tally]

    def as_dict(self) -> dict[str, Any]:
        return {
            "total": {name: value for name, value in self.total.as_dict().items() if name != "label"},
            "ratings": {str(stars): count for stars, count in self.histogram.items()},
            "by_version": [tally.as_dict() for tally in self.versions],
            "by_day": [tally.as_dict() for tally in self.days],
            "by_type": [tally.as_dict() for tally in self.types],
        }


_COUNTS: dict[str, Any] = {
    "votes": Count("id"),
    "ratings": Count("rating"),
    "mean_rating": Avg("rating"),
    "thumbs": Count("id", filter=~Q(thumb="")),
    "thumbs_up": Count("id", filter=Q(thumb=Thumb.UP)),
    "corrections": Count("id", filter=~Q(corrected_text="")),
    "comments": Count("id", filter=~Q(comment="")),
}


def statistics(
    feedback: QuerySet[Feedback], *, since: datetime | None = None, until: datetime | None = None
) -> FeedbackStatistics:
    """Count `feedback` given from `since` until before `until`; days are days of UTC.

    Five queries, whatever the number of votes.
    """
    if since:
        feedback = feedback.filter(created_at__gte=since)
    if until:
        feedback = feedback.filter(created_at__lt=until)
    feedback = feedback.order_by()
    by_version = feedback.values("answer__version_id", "answer__model__name", "answer__version__number")
    by_day = feedback.annotate(day=TruncDate("created_at")).values("day")
    return FeedbackStatistics(
        total=Tally(label="", **feedback.aggregate(**_COUNTS)),
        histogram=_histogram(feedback),
        versions=[
            Tally(
                id=str(row.pop("answer__version_id")),
                label=f"{row.pop('answer__model__name')}:{row.pop('answer__version__number')}",
                **row,
            )
            for row in by_version.annotate(**_COUNTS).order_by("-votes", "answer__version_id")
        ],
        days=[
            Tally(label=row.pop("day").isoformat(), **row)
            for row in reversed(by_day.annotate(**_COUNTS).order_by("-day")[:DAYS])
        ],
        types=[
            Tally(label=row.pop("feedback_type"), **row)
            for row in feedback.values("feedback_type").annotate(**_COUNTS).order_by("-votes", "feedback_type")
        ],
    )


def _histogram(feedback: QuerySet[Feedback]) -> dict[int, int]:
    counted = feedback.exclude(rating=None).values("rating").annotate(count=Count("id"))
    return dict.fromkeys(range(1, 6), 0) | {int(row["rating"] or 0): int(row["count"]) for row in counted}
