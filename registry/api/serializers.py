"""Shapes of models, versions, scores, deployments and comparisons."""

from typing import Any

from rest_framework import serializers

from project.kernel.api.base import StrictModelSerializer, StrictSerializer
from registry import sources
from registry.models import Deployment, Engine, ModelVersion, RegisteredModel, Route, Score, StageChange


class ModelVersionBrief(StrictModelSerializer[ModelVersion]):
    """A version in a few words."""

    reference = serializers.CharField(read_only=True)

    class Meta:
        model = ModelVersion
        fields: tuple[str, ...] = ("id", "reference", "number", "stage", "kind", "created_at")
        read_only_fields = fields


class ScoreSerializer(StrictModelSerializer[Score]):
    """`low` and `high`: 95 % confidence interval. `n`: rows."""

    class Meta:
        model = Score
        fields = (
            "metric",
            "value",
            "low",
            "high",
            "n",
            "unit",
            "better",
            "data_digest",
            "data_label",
            "job_id",
            "evaluated_at",
        )
        read_only_fields = fields


class DeploymentSerializer(StrictModelSerializer[Deployment]):
    """`failure` says why it does not answer, `retry_at` when it is tried again."""

    model_version = serializers.UUIDField(source="version_id", read_only=True)
    reference = serializers.CharField(source="version.reference", read_only=True)

    class Meta:
        model = Deployment
        fields = (
            "id",
            "model_version",
            "reference",
            "target",
            "wanted",
            "state",
            "failure",
            "failures",
            "retry_at",
            "host",
            "created_at",
            "created_by",
            "state_changed_at",
            "healthy_at",
            "checked_at",
            "stopped_at",
        )
        read_only_fields = fields


class EngineSerializer(StrictModelSerializer[Engine]):
    """The process that holds it. Sizes in tokens."""

    class Meta:
        model = Engine
        fields = (
            "id",
            "host",
            "device",
            "dtype",
            "state",
            "context",
            "started_at",
            "ready_at",
            "lease_until",
            "failure",
        )
        read_only_fields = fields


class DeploymentHealth(serializers.Serializer[Deployment]):
    """Is it well, since when, and who holds it."""

    healthy = serializers.BooleanField(source="is_healthy")
    state = serializers.CharField()
    checked_at = serializers.DateTimeField(allow_null=True)
    healthy_at = serializers.DateTimeField(allow_null=True)
    failure = serializers.CharField()
    engine = EngineSerializer(allow_null=True)


class ModelVersionSerializer(StrictModelSerializer[ModelVersion]):
    """A version. `facts` are read from its weights, `size` is in bytes, `digest` names the whole content."""

    model = serializers.UUIDField(source="model_id", read_only=True)
    model_name = serializers.CharField(source="model.name", read_only=True)
    reference = serializers.CharField(read_only=True)
    base = ModelVersionBrief(read_only=True, allow_null=True)
    size = serializers.IntegerField(source="artifact.size", read_only=True)
    digest = serializers.CharField(source="artifact.digest", read_only=True)
    job = serializers.UUIDField(source="job_id", read_only=True, allow_null=True)

    class Meta:
        model = ModelVersion
        fields: tuple[str, ...] = (
            "id",
            "model",
            "model_name",
            "number",
            "reference",
            "stage",
            "stage_changed_at",
            "kind",
            "base",
            "origin",
            "source",
            "facts",
            "metrics",
            "config",
            "data_digest",
            "job",
            "size",
            "digest",
            "notes",
            "created_at",
            "created_by",
        )
        read_only_fields = tuple(name for name in fields if name != "notes")


class ModelVersionDetail(ModelVersionSerializer):
    """A version with its files, newest scores and deployment."""

    files = serializers.JSONField(source="artifact.manifest", read_only=True, help_text="[{path, size, sha256}]")
    scores = serializers.SerializerMethodField()
    deployment = serializers.SerializerMethodField()

    class Meta(ModelVersionSerializer.Meta):
        fields = (*ModelVersionSerializer.Meta.fields, "files", "scores", "deployment")

    def get_scores(self, version: ModelVersion) -> list[dict[str, Any]]:
        from registry.actions import scores

        return list(ScoreSerializer(scores.newest([version]).get(version.pk, []), many=True).data)

    def get_deployment(self, version: ModelVersion) -> dict[str, Any] | None:
        wanted = version.deployments.filter(wanted=True).select_related("version__model").first()
        return DeploymentSerializer(wanted).data if wanted else None


class ModelSerializer(StrictModelSerializer[RegisteredModel]):
    """A model; `production` is the version that new deployments use, `versions` how many there are."""

    production = serializers.SerializerMethodField()
    newest = serializers.SerializerMethodField()
    versions = serializers.IntegerField(source="version_count", read_only=True)

    class Meta:
        model = RegisteredModel
        fields = (
            "id",
            "name",
            "description",
            "tags",
            "versions",
            "production",
            "newest",
            "created_at",
            "created_by",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "created_by", "updated_at")

    def get_production(self, model: RegisteredModel) -> dict[str, Any] | None:
        return _brief(model, "production_list")

    def get_newest(self, model: RegisteredModel) -> dict[str, Any] | None:
        return _brief(model, "newest_list")


def _brief(model: RegisteredModel, prefetched: str) -> dict[str, Any] | None:
    versions: list[ModelVersion] = getattr(model, prefetched)
    return ModelVersionBrief(versions[0]).data if versions else None


class NewModel(StrictSerializer):
    name = serializers.CharField(max_length=100)
    description = serializers.CharField(required=False, allow_blank=True, default="")
    tags = serializers.ListField(child=serializers.CharField(max_length=40), required=False, default=list)


class EditModel(StrictSerializer):
    name = serializers.CharField(max_length=100, required=False)
    description = serializers.CharField(required=False, allow_blank=True)
    tags = serializers.ListField(child=serializers.CharField(max_length=40), required=False)


class ImportRequest(StrictSerializer):
    """`base` names the base model of an adapter; `name` defaults to the source's own."""

    source = serializers.CharField(  # type: ignore[assignment]
        max_length=300, help_text=", ".join(sources.FORMS.values())
    )
    name = serializers.CharField(max_length=100, required=False, allow_blank=True, default="")
    base = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    dtype = serializers.ChoiceField(choices=("auto", "bfloat16", "float32"), required=False, default="auto")


class ImportStarted(serializers.Serializer[Any]):
    """The version appears when the job has succeeded: its `result` holds `model` and `model_version`."""

    job = serializers.UUIDField()
    name = serializers.CharField()


class VersionNotes(StrictSerializer):
    notes = serializers.CharField(allow_blank=True)


class StepComment(StrictSerializer):
    comment = serializers.CharField(required=False, allow_blank=True, default="", max_length=2000)


class NoFields(StrictSerializer):
    """A body without fields."""


class StageChangeSerializer(StrictModelSerializer[StageChange]):
    class Meta:
        model = StageChange
        fields = ("label", "action", "from_stage", "to_stage", "at", "actor_kind", "actor_label", "comment", "gates")
        read_only_fields = fields


class InProductionSerializer(serializers.Serializer[Any]):
    """What was in production at `time`. `version` is null when nothing was, or when it has been deleted since."""

    time = serializers.DateTimeField()
    label = serializers.CharField(  # type: ignore[assignment]
        source="change.label", default=None, allow_null=True
    )
    since = serializers.DateTimeField(source="change.at", default=None, allow_null=True)
    by = serializers.CharField(source="change.actor_label", default=None, allow_null=True)
    version = ModelVersionBrief(allow_null=True)


class RelativeSerializer(serializers.Serializer[Any]):
    relation = serializers.CharField()
    kind = serializers.CharField()
    id = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    url = serializers.CharField()


class LineageSerializer(serializers.Serializer[Any]):
    """One step in both directions."""

    made_from = RelativeSerializer(many=True)
    led_to = RelativeSerializer(many=True)


class RouteArmSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    weight = serializers.IntegerField()
    deployment = DeploymentSerializer()


class RouteSerializer(StrictModelSerializer[Route]):
    arms = RouteArmSerializer(many=True, read_only=True)

    class Meta:
        model = Route
        fields = ("id", "owner", "revision", "updated_at", "arms")
        read_only_fields = fields


class ComparedDeltaSerializer(serializers.Serializer[Any]):
    """Difference to the first version; `better` is null where the interval contains no change."""

    value = serializers.FloatField()
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    better = serializers.BooleanField(allow_null=True)


class ComparedValueSerializer(serializers.Serializer[Any]):
    value = serializers.FloatField()
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()


class ComparedLineSerializer(serializers.Serializer[Any]):
    data_digest = serializers.CharField()
    data_label = serializers.CharField()
    metric = serializers.CharField()
    better = serializers.CharField()
    unit = serializers.CharField()
    values = serializers.ListField(child=ComparedValueSerializer(allow_null=True))
    deltas = serializers.ListField(child=ComparedDeltaSerializer(allow_null=True))


class ComparedSettingSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    values = serializers.ListField(child=serializers.JSONField(allow_null=True))
    differs = serializers.BooleanField()


class ComparisonSerializer(serializers.Serializer[Any]):
    """Versions side by side; lists inside are in the order of `versions`."""

    versions = ModelVersionBrief(many=True)
    scores = ComparedLineSerializer(many=True)
    config = ComparedSettingSerializer(many=True)
    facts = ComparedSettingSerializer(many=True)
    answers = serializers.ListField(child=serializers.DictField())
