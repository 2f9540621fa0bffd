"""What lists of answers and votes can be narrowed to."""

from django.db.models import Exists, OuterRef, QuerySet
from django_filters import rest_framework as filters  # type: ignore[import-untyped]

from abtests.models import ABTest, Answer, Feedback, Source, TestState, Thumb


class AnswerFilter(filters.FilterSet):  # type: ignore[misc]
    """Ids of another workspace find nothing, like ids that do not exist."""

    model = filters.UUIDFilter(field_name="model_id")
    version = filters.UUIDFilter(field_name="version_id")
    test = filters.UUIDFilter(field_name="test_id")
    arm = filters.CharFilter()
    unit_hash = filters.CharFilter()
    source = filters.ChoiceFilter(choices=Source.choices)
    since = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte")
    until = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt")
    failed = filters.BooleanFilter(method="by_failure", label="Only failed answers, or only good ones")
    has_feedback = filters.BooleanFilter(method="by_feedback", label="Only answers with feedback, or without")

    class Meta:
        model = Answer
        fields: tuple[str, ...] = ()

    def by_failure(self, rows: QuerySet[Answer], name: str, value: bool) -> QuerySet[Answer]:
        return rows.exclude(error="") if value else rows.filter(error="")

    def by_feedback(self, rows: QuerySet[Answer], name: str, value: bool) -> QuerySet[Answer]:
        voted = Exists(Feedback.objects.filter(answer=OuterRef("pk")))
        return rows.filter(voted if value else ~voted)


class FeedbackFilter(filters.FilterSet):  # type: ignore[misc]
    response_id = filters.CharFilter(field_name="answer_id")
    model = filters.UUIDFilter(field_name="answer__model_id")
    version = filters.UUIDFilter(field_name="answer__version_id")
    test = filters.UUIDFilter(field_name="answer__test_id")
    rating = filters.NumberFilter()
    rating_max = filters.NumberFilter(field_name="rating", lookup_expr="lte")
    rating_min = filters.NumberFilter(field_name="rating", lookup_expr="gte")
    thumb = filters.ChoiceFilter(choices=Thumb.choices)
    feedback_type = filters.CharFilter()
    session_id = filters.CharFilter()
    corrected = filters.BooleanFilter(method="by_correction", label="Only votes with a corrected text, or without")
    since = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte")
    until = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt")

    class Meta:
        model = Feedback
        fields: tuple[str, ...] = ()

    def by_correction(self, rows: QuerySet[Feedback], name: str, value: bool) -> QuerySet[Feedback]:
        return rows.exclude(corrected_text="") if value else rows.filter(corrected_text="")


class ABTestFilter(filters.FilterSet):  # type: ignore[misc]
    model = filters.UUIDFilter(field_name="model_id")
    state = filters.ChoiceFilter(choices=TestState.choices)

    class Meta:
        model = ABTest
        fields: tuple[str, ...] = ()
