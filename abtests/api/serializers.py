"""Shapes of answers, feedback and A/B tests."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from abtests.actions.abtests import METRICS
from abtests.models import ABTest, Answer, Feedback, FeedbackEdit, Thumb, Variant
from project.kernel.api.base import StrictModelSerializer, StrictSerializer

_OPINION = ("rating", "thumb", "corrected_text", "comment", "feedback_type")


class AnswerSerializer(StrictModelSerializer[Answer]):
    """An answer as a line of a list: the last question, the answer, who gave it, how long it took."""

    model = serializers.UUIDField(source="model_id", read_only=True)
    model_name = serializers.CharField(source="model.name", read_only=True)
    version = serializers.UUIDField(source="version_id", read_only=True)
    version_label = serializers.CharField(source="version.reference", read_only=True)
    deployment = serializers.UUIDField(source="deployment_id", read_only=True, allow_null=True)
    test = serializers.UUIDField(source="test_id", read_only=True, allow_null=True)
    prompt = serializers.CharField(read_only=True)

    class Meta:
        model = Answer
        fields = (
            "id",
            "created_at",
            "model",
            "model_name",
            "version",
            "version_label",
            "deployment",
            "test",
            "arm",
            "unit_hash",
            "token_label",
            "source",
            "prompt",
            "text",
            "finish_reason",
            "error",
            "prompt_tokens",
            "completion_tokens",
            "latency_ms",
            "first_token_ms",
        )
        read_only_fields: tuple[str, ...] = fields


class FeedbackSerializer(StrictModelSerializer[Feedback]):
    """One vote, as it is now."""

    response_id = serializers.CharField(source="answer_id", read_only=True)
    version = serializers.UUIDField(source="answer.version_id", read_only=True)
    version_label = serializers.CharField(source="answer.version.reference", read_only=True)

    class Meta:
        model = Feedback
        fields = (
            "id",
            "response_id",
            "version",
            "version_label",
            *_OPINION,
            "user_id_hash",
            "session_id",
            "source",
            "created_by",
            "created_at",
            "updated_at",
        )
        read_only_fields: tuple[str, ...] = fields


class FeedbackEditSerializer(StrictModelSerializer[FeedbackEdit]):
    """What a vote said before it was changed."""

    class Meta:
        model = FeedbackEdit
        fields = (*_OPINION, "said_at", "replaced_at", "replaced_by")
        read_only_fields = fields


class FeedbackWithHistory(FeedbackSerializer):
    edits = FeedbackEditSerializer(many=True, read_only=True)

    class Meta(FeedbackSerializer.Meta):
        fields = (*FeedbackSerializer.Meta.fields, "edits")  # type: ignore[assignment]
        read_only_fields = fields


class WholeAnswer(AnswerSerializer):
    """One answer with its conversation, its settings and what people think of it."""

    feedback = FeedbackSerializer(many=True, read_only=True)

    class Meta(AnswerSerializer.Meta):
        fields = (*AnswerSerializer.Meta.fields, "messages", "params", "feedback")  # type: ignore[assignment]
        read_only_fields = fields


class NewFeedback(StrictSerializer):
    """At least one of rating, thumb, corrected_text and comment. What is left out stays as it was."""

    response_id = serializers.CharField(max_length=64, help_text="The id of the answer, as the client got it")
    rating = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=5)
    thumb = serializers.ChoiceField(choices=Thumb.choices, required=False, allow_blank=True)
    corrected_text = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    comment = serializers.CharField(required=False, allow_blank=True)
    feedback_type = serializers.CharField(required=False, allow_blank=True, max_length=40)
    user_id = serializers.CharField(required=False, allow_blank=True, max_length=200, help_text="Kept as a hash only")
    session_id = serializers.CharField(required=False, allow_blank=True, max_length=200)

    def validate_rating(self, value: int | None) -> int | None:
        if isinstance(self.initial_data.get("rating"), bool):
            raise serializers.ValidationError("Use a whole number from 1 (bad) to 5 (good).")
        return value


class TallySerializer(serializers.Serializer[Any]):
    """Votes of one group; `up_share` is 0 to 1."""

    label = serializers.CharField()  # type: ignore[assignment]
    id = serializers.CharField(required=False)
    votes = serializers.IntegerField()
    ratings = serializers.IntegerField()
    mean_rating = serializers.FloatField(allow_null=True)
    thumbs = serializers.IntegerField()
    thumbs_up = serializers.IntegerField()
    up_share = serializers.FloatField(allow_null=True)
    corrections = serializers.IntegerField()
    comments = serializers.IntegerField()


class FeedbackStatisticsSerializer(serializers.Serializer[Any]):
    """All votes, and apart by version, day (UTC) and type. `ratings` counts votes of 1 to 5 stars."""

    total = TallySerializer()
    ratings = serializers.DictField(child=serializers.IntegerField())
    by_version = TallySerializer(many=True)
    by_day = TallySerializer(many=True)
    by_type = TallySerializer(many=True)


class VariantSerializer(StrictModelSerializer[Variant]):
    version = serializers.UUIDField(source="version_id", read_only=True)
    version_label = serializers.CharField(source="version.reference", read_only=True)
    deployment = serializers.UUIDField(source="deployment_id", read_only=True, allow_null=True)
    deployment_state = serializers.CharField(source="deployment.state", read_only=True, allow_null=True, default=None)

    class Meta:
        model = Variant
        fields = ("key", "version", "version_label", "weight", "deployment", "deployment_state")
        read_only_fields = fields


class ABTestSerializer(StrictModelSerializer[ABTest]):
    model = serializers.UUIDField(source="model_id", read_only=True)
    model_name = serializers.CharField(source="model.name", read_only=True)
    variants = VariantSerializer(many=True, read_only=True)
    winner = serializers.SerializerMethodField(help_text="Key of the variant, when somebody decided")

    class Meta:
        model = ABTest
        fields = (
            "id",
            "name",
            "description",
            "model",
            "model_name",
            "state",
            "unit",
            "metrics",
            "variants",
            "winner",
            "created_by",
            "created_at",
            "started_at",
            "stopped_at",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_winner(self, test: ABTest) -> str | None:
        return next((variant.key for variant in test.variants.all() if variant.pk == test.winner_id), None)


class ShareSerializer(StrictSerializer):
    version = serializers.CharField(max_length=200, help_text="An id, name:3 or name@stage")
    weight = serializers.IntegerField(default=50, min_value=1, max_value=10_000, help_text="Against the others")


class NewABTest(StrictSerializer):
    """The first variant is what the others are compared with."""

    name = serializers.CharField(max_length=100)
    description = serializers.CharField(required=False, allow_blank=True, max_length=10_000)
    variants = ShareSerializer(many=True)
    metrics = serializers.ListField(
        child=serializers.CharField(max_length=40), required=False, help_text=f"Any of {', '.join(METRICS)}"
    )
    unit = serializers.CharField(required=False, max_length=20, help_text="user")


class ABTestChange(StrictSerializer):
    name = serializers.CharField(max_length=100, required=False)
    description = serializers.CharField(required=False, allow_blank=True, max_length=10_000)
    variants = ShareSerializer(many=True, required=False)
    metrics = serializers.ListField(child=serializers.CharField(max_length=40), required=False)


class StopABTest(StrictSerializer):
    winner = serializers.CharField(required=False, allow_null=True, max_length=40, help_text="Key of a variant")


class ArmSerializer(serializers.Serializer[Any]):
    """One variant in numbers. Shares are 0 to 1, latencies in milliseconds; a mean of nothing is null.

    `mean_rating` and `up_share` let every user speak once; latency leaves out answers with an error.
    """

    key = serializers.CharField()
    version_id = serializers.UUIDField()
    version = serializers.CharField()
    weight = serializers.IntegerField()
    wanted_share = serializers.FloatField()
    units = serializers.IntegerField()
    unit_share = serializers.FloatField(allow_null=True)
    answers = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]
    error_share = serializers.FloatField(allow_null=True)
    feedback = serializers.IntegerField()
    units_with_feedback = serializers.IntegerField()
    ratings = serializers.IntegerField()
    mean_rating = serializers.FloatField(allow_null=True)
    thumbs = serializers.IntegerField()
    thumbs_up = serializers.IntegerField()
    up_share = serializers.FloatField(allow_null=True)
    latency_mean_ms = serializers.FloatField(allow_null=True)
    latency_p50_ms = serializers.FloatField(allow_null=True)
    latency_p95_ms = serializers.FloatField(allow_null=True)
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()


class LeftOutSerializer(serializers.Serializer[Any]):
    """What no arm counts: users that met two arms, answers without a user, answers of an arm the test does not have."""

    crossover_units = serializers.IntegerField()
    crossover_answers = serializers.IntegerField()
    answers_without_unit = serializers.IntegerField()
    answers_of_unknown_arm = serializers.IntegerField()


class ResultsSerializer(serializers.Serializer[Any]):
    """Counts at this moment; no claim about significance."""

    state = serializers.CharField()
    started_at = serializers.DateTimeField(allow_null=True)
    stopped_at = serializers.DateTimeField(allow_null=True)
    units = serializers.IntegerField()
    answers = serializers.IntegerField()
    feedback = serializers.IntegerField()
    arms = ArmSerializer(many=True)
    left_out = LeftOutSerializer()
    note = serializers.CharField()
