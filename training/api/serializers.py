"""Shapes of evaluations, their answers and comparisons; and the job file as the body of a request."""

from typing import Any

from pydantic import Field
from rest_framework import serializers

from project.kernel.api.base import StrictModelSerializer, StrictSerializer
from training.actions.evaluations import DEFAULT_METRICS, LIMITS
from training.jobfile import JobFile
from training.models import Evaluation


class LaunchRequest(JobFile):
    """The job file, plus `start`: false leaves a draft that waits for `start/`."""

    start: bool = Field(True, description="Queue it at once.")


class EvaluationSerializer(StrictModelSerializer[Evaluation]):
    """`scores` have 95 % intervals. `learned`: the version learned these rows, so the scores flatter it."""

    job = serializers.UUIDField(source="job_id", read_only=True)
    state = serializers.CharField(read_only=True)
    model_version = serializers.UUIDField(source="version_id", read_only=True)
    version = serializers.CharField(source="version.reference", read_only=True)
    dataset_version = serializers.UUIDField(source="data_version_id", read_only=True)
    data_label = serializers.CharField(read_only=True)
    warnings = serializers.SerializerMethodField()
    failure = serializers.CharField(source="job.failure_message", read_only=True)
    finished_at = serializers.DateTimeField(source="job.finished_at", read_only=True)

    class Meta:
        model = Evaluation
        fields = (
            "id",
            "job",
            "state",
            "model_version",
            "version",
            "dataset_version",
            "data_label",
            "split",
            "metrics",
            "limit",
            "rows",
            "scores",
            "learned",
            "warnings",
            "failure",
            "created_at",
            "created_by",
            "finished_at",
        )
        read_only_fields = fields

    def get_warnings(self, evaluation: Evaluation) -> list[str]:
        return [evaluation.warning] if evaluation.warning else []


class RegisterCheckpoint(StrictSerializer):
    model = serializers.CharField(
        max_length=100, required=False, help_text="The model that gets the version. Left out: the fine-tune's own."
    )


class MethodSerializer(serializers.Serializer[Any]):
    """A method, with settings that have a name of their own. `targets`: {target: {way, remark}};
    `way` is model (a whole one), adapter, merged or no."""

    method = serializers.CharField(help_text="what `method.type` of a job file is")
    label = serializers.CharField()  # type: ignore[assignment]  # a serializer has a label too
    prominent = serializers.BooleanField()
    settings = serializers.DictField()
    summary = serializers.CharField()
    merges = serializers.BooleanField(help_text="can it be merged into its base?")
    refuses = serializers.DictField(help_text="what must be off -> why")
    targets = serializers.DictField()


class NewEvaluation(StrictSerializer):
    """`model_version` and `dataset_version` are references: an id, name or name:3 (models also name@stage)."""

    model_version = serializers.CharField(max_length=200)
    dataset_version = serializers.CharField(max_length=200)
    metrics = serializers.ListField(child=serializers.CharField(max_length=60), default=list(DEFAULT_METRICS))
    limit = serializers.IntegerField(
        min_value=LIMITS[0],
        max_value=LIMITS[-1],
        required=False,
        allow_null=True,
        help_text="At most so many rows, drawn by `seed`. Left out: all.",
    )
    max_new_tokens = serializers.IntegerField(
        min_value=1, max_value=8192, required=False, help_text="Per answer. Left out: twice the longest reference."
    )
    seed = serializers.IntegerField(
        min_value=0, max_value=2**32 - 1, required=False, help_text="Of the choice of rows, if there is a limit."
    )


class EvaluationRowSerializer(serializers.Serializer[Any]):
    """One row of an evaluation. `row` counts from 1 in the data set; `right` is null where nobody looked."""

    row = serializers.IntegerField()
    prompt = serializers.CharField()
    answer = serializers.CharField(allow_null=True)
    reference = serializers.CharField()
    finish_reason = serializers.CharField(allow_null=True, help_text="stop, or length: cut at max_new_tokens")
    scores = serializers.DictField(child=serializers.FloatField())
    right = serializers.BooleanField(allow_null=True)


class MetricChangeSerializer(serializers.Serializer[Any]):
    """One metric: `change` is second minus first, `low` to `high` its 95 % interval."""

    metric = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a serializer has a label too
    better = serializers.CharField(help_text="higher or lower")
    unit = serializers.CharField()
    first = serializers.DictField()
    second = serializers.DictField()
    change = serializers.FloatField()
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    verdict = serializers.CharField(help_text="better, worse, or unclear: the interval contains no change")


class AnswerPairSerializer(serializers.Serializer[Any]):
    """One row that both were asked."""

    row = serializers.IntegerField()
    prompt = serializers.CharField()
    reference = serializers.CharField()
    answers = serializers.ListField(child=serializers.CharField(allow_null=True))
    scores = serializers.ListField(child=serializers.DictField())
    change = serializers.CharField(help_text="better, worse or same: the second against the first")


class EvaluationComparisonSerializer(serializers.Serializer[Any]):
    """Two evaluations on the same rows. `results` are paged."""

    first = EvaluationSerializer()
    second = EvaluationSerializer()
    measured_by = serializers.CharField(help_text="the metric by which a row is better or worse")
    differences = MetricChangeSerializer(many=True)
    rows = serializers.IntegerField(help_text="rows that both were asked")
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="{better, worse, same}: rows")
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = AnswerPairSerializer(many=True)


class NewSyntheticData(StrictSerializer):
    """One of `template_prompts` (with `values`), `documents` and `seeds`; one of `model` and `endpoint`."""

    to = serializers.CharField(max_length=100, help_text="the data set that gets the version; made where it is new")
    model = serializers.CharField(max_length=200, required=False, default="", allow_blank=True)
    endpoint = serializers.CharField(max_length=100, required=False, default="", allow_blank=True)
    template_prompts = serializers.ListField(
        child=serializers.CharField(max_length=20_000), required=False, default=list, max_length=1000
    )
    values = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField(max_length=20_000), max_length=100_000),
        required=False,
        default=dict,
    )
    documents = serializers.CharField(max_length=200, required=False, default="", allow_blank=True)
    seeds = serializers.CharField(max_length=200, required=False, default="", allow_blank=True)
    system = serializers.CharField(max_length=20_000, required=False, default="", allow_blank=True)
    instructions = serializers.CharField(max_length=20_000, required=False, default="", allow_blank=True)
    output_format = serializers.ChoiceField(choices=["chat", "completion"], required=False, default="chat")
    generation_config = serializers.DictField(
        required=False,
        default=dict,
        help_text="num_samples, temperature, max_tokens, quality_filter, seed, concurrency, batch_size, pairs, "
        "chunk_characters, min_characters, similarity, grounded",
    )


class NewAugmentation(StrictSerializer):
    """Copies of rows in other words. One of `model` and `endpoint` writes them."""

    dataset = serializers.CharField(max_length=200)
    to = serializers.CharField(max_length=100, required=False, default="", allow_blank=True)
    model = serializers.CharField(max_length=200, required=False, default="", allow_blank=True)
    endpoint = serializers.CharField(max_length=100, required=False, default="", allow_blank=True)
    method = serializers.ChoiceField(choices=["paraphrase", "back_translation"], required=False, default="paraphrase")
    through = serializers.CharField(max_length=60, required=False, default="German")
    part = serializers.ChoiceField(choices=["prompt", "answer", "system"], required=False, default="prompt")
    share = serializers.FloatField(required=False, default=1.0)
    copies = serializers.IntegerField(required=False, default=1)
    generation_config = serializers.DictField(
        required=False,
        default=dict,
        help_text="temperature, max_tokens, quality_filter, seed, concurrency, batch_size",
    )


class WrittenVersion(StrictSerializer):
    """The version that is being written, and the job to watch."""

    dataset = serializers.UUIDField(source="dataset_id")
    version = serializers.UUIDField(source="pk")
    reference = serializers.CharField(source="__str__")
    state = serializers.CharField()
    job = serializers.UUIDField(source="job_id")
