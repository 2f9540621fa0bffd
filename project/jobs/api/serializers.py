"""Shapes of jobs, their tries, events and recipes."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from project.contracts.runs import Recipe
from project.jobs.actions import jobs
from project.jobs.expecting import expected_start
from project.jobs.models import Job, JobAttempt, JobEvent
from project.kernel.api.base import StrictModelSerializer, StrictSerializer


class AttemptSerializer(StrictModelSerializer[JobAttempt]):
    class Meta:
        model = JobAttempt
        fields = (
            "number",
            "outcome",
            "host",
            "device",
            "started_at",
            "finished_at",
            "failure_class",
            "message",
            "exit_code",
            "signal",
            "versions",
        )
        read_only_fields = fields


class JobSerializer(StrictModelSerializer[Job]):
    """A job in a list. Times in UTC, durations in seconds, `percent` 0 to 100."""

    percent = serializers.FloatField(read_only=True, allow_null=True)
    eta_seconds = serializers.FloatField(read_only=True, allow_null=True)
    duration_seconds = serializers.SerializerMethodField()
    artifact = serializers.UUIDField(source="artifact_id", read_only=True, allow_null=True)
    retry_of = serializers.UUIDField(source="retry_of_id", read_only=True, allow_null=True)

    class Meta:
        model = Job
        fields: tuple[str, ...] = (
            "id",
            "title",
            "recipe",
            "state",
            "queue",
            "priority",
            "attempt",
            "created_at",
            "created_by",
            "queued_at",
            "started_at",
            "finished_at",
            "cancel_requested_at",
            "pause_requested_at",
            "duration_seconds",
            "step",
            "total",
            "unit",
            "phase",
            "epoch",
            "percent",
            "eta_seconds",
            "latest",
            "last_seq",
            "failure_class",
            "failure_message",
            "failure_hint",
            "failure_field",
            "result",
            "artifact",
            "subject_kind",
            "subject_id",
            "retry_of",
        )
        read_only_fields = fields

    def get_duration_seconds(self, job: Job) -> float | None:
        return round(job.duration.total_seconds(), 3) if job.duration is not None else None


class RemedySerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a serializer has a label too


class AdjustSerializer(StrictSerializer):
    """What may be changed about a job that has not ended; fields left out stay as they are."""

    priority = serializers.IntegerField(required=False, help_text="higher starts first, -100 to 100")
    time_limit = serializers.IntegerField(required=False, help_text="seconds of work over all tries")
    memory_limit = serializers.IntegerField(required=False, help_text="bytes of the host's memory")


@extend_schema_field({"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]})
class CheckpointChoice(serializers.Field[Any, Any, Any, Any]):
    """true: the furthest checkpoint; a number: that of this step; false: none."""

    def to_internal_value(self, data: Any) -> bool | int:
        if isinstance(data, bool) or (isinstance(data, int) and data >= 0):
            return data
        raise serializers.ValidationError("Use true, false, or the step of a checkpoint.")


class RetrySerializer(StrictSerializer):
    remedy = serializers.CharField(required=False, help_text="key of one of the job's remedies")
    from_checkpoint = CheckpointChoice(required=False, help_text="go on from its furthest checkpoint, or from a step")


class JobDetailSerializer(JobSerializer):
    """One job, with its parameters, its place in the queue and its tries."""

    queue_position = serializers.SerializerMethodField()
    expected_start_at = serializers.SerializerMethodField(help_text="an estimate; null where too little is known")
    remedies = serializers.SerializerMethodField(help_text="what `retry` may change after a failure")
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta:
        model = Job
        fields = (
            *JobSerializer.Meta.fields,
            *("params", "adjusted", "inputs", "time_limit", "memory_limit", "failure_lines", "remedies"),
            *("queue_position", "expected_start_at", "attempts"),
        )
        read_only_fields = fields

    def get_queue_position(self, job: Job) -> int | None:
        return job.position()

    def get_expected_start_at(self, job: Job) -> datetime | None:
        return expected_start(job)

    @extend_schema_field(RemedySerializer(many=True))
    def get_remedies(self, job: Job) -> list[dict[str, str]]:
        return [{"key": remedy.key, "label": remedy.label} for remedy in jobs.remedies(job)]


def event_document(event: JobEvent) -> dict[str, Any]:
    """An event as people get it: flat, `at` in Unix seconds like the engine's own."""
    return {
        **event.body,
        "seq": event.seq,
        "type": event.type,
        "attempt": event.attempt,
        "at": event.at.timestamp(),
    }


class EventSerializer(serializers.Serializer[JobEvent]):
    """`{seq, type, attempt, at, …}`: the other fields depend on the type."""

    seq = serializers.IntegerField()
    type = serializers.CharField()
    attempt = serializers.IntegerField()
    at = serializers.FloatField(help_text="Unix seconds")

    def to_representation(self, instance: JobEvent) -> dict[str, Any]:
        return event_document(instance)


class EventPageSerializer(serializers.Serializer[Any]):
    results = EventSerializer(many=True)
    last_seq = serializers.IntegerField(help_text="number of the job's newest event")


class SeriesSerializer(serializers.Serializer[Any]):
    steps = serializers.ListField(child=serializers.IntegerField())
    values = serializers.ListField(child=serializers.FloatField())
    count = serializers.IntegerField(help_text="points there are")


class MetricsSerializer(serializers.Serializer[Any]):
    series = serializers.DictField(child=SeriesSerializer())
    keys = serializers.ListField(child=serializers.CharField(), help_text="all numbers this job has")
    last_seq = serializers.IntegerField()


class LogSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField()
    text = serializers.CharField()
    offset = serializers.IntegerField(help_text="bytes")
    next_offset = serializers.IntegerField(help_text="bytes; ask with it for what comes next")
    size = serializers.IntegerField(help_text="bytes")
    complete = serializers.BooleanField(help_text="false: only the last part is kept where this is asked")


class CheckpointSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField()
    step = serializers.IntegerField()
    at = serializers.DateTimeField()
    metrics = serializers.DictField(child=serializers.FloatField())
    size = serializers.IntegerField(help_text="bytes; 0: not known")
    host = serializers.CharField(help_text="where it was written")
    digest = serializers.CharField(help_text="SHA-256 of its manifest")
    state = serializers.ChoiceField(
        choices=["here", "stored", "elsewhere", "damaged", "gone"],
        help_text="here: on this host; stored: in the shared store; elsewhere: only on the host that wrote it",
    )
    damage = serializers.CharField(help_text="why it can't be used, once that is known")
    usable = serializers.BooleanField(source="is_usable", help_text="a retry may start from it")


class RecipeSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a serializer has a label too
    description = serializers.SerializerMethodField()
    eats = serializers.SerializerMethodField(help_text="kinds of rows it takes")
    needs = serializers.ChoiceField(choices=["device", "cpu"])
    params = serializers.SerializerMethodField(help_text="JSON schema of its parameters")

    def get_description(self, recipe: Recipe) -> str:
        return (recipe.__doc__ or "").strip()

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_eats(self, recipe: Recipe) -> list[str]:
        return [str(kind.value) for kind in recipe.eats]

    @extend_schema_field(serializers.DictField())
    def get_params(self, recipe: Recipe) -> dict[str, Any]:
        return recipe.Params.model_json_schema()
