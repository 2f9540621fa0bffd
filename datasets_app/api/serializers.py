"""Shapes of data sets, versions and rows."""

import json
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from datasets_app.models import Dataset, DatasetVersion
from datasets_app.shapes import PARTS
from datasets_app.sources import Uri, parse
from datasets_app.storage import StoredRow
from project.contracts.runs import UserError
from project.kernel.api.base import StrictModelSerializer, StrictSerializer


class BriefVersionSerializer(StrictModelSerializer[DatasetVersion]):
    """A version in lists."""

    reference = serializers.CharField(source="__str__", read_only=True)

    class Meta:
        model = DatasetVersion
        fields = ("id", "number", "reference", "state", "row_kind", "rows", "digest", "created_at", "created_by")
        read_only_fields = fields


class VersionSerializer(StrictModelSerializer[DatasetVersion]):
    """A version with everything but its rows; the whole report has its own path."""

    name = serializers.CharField(source="dataset.name", read_only=True)
    reference = serializers.CharField(source="__str__", read_only=True)
    size = serializers.IntegerField(read_only=True, help_text="bytes stored")
    summary = serializers.JSONField(read_only=True, help_text="the report's counts; empty until it is ready")
    job = serializers.UUIDField(source="job_id", read_only=True, allow_null=True)

    class Meta:
        model = DatasetVersion
        fields = (
            "id",
            "dataset",
            "name",
            "number",
            "reference",
            "state",
            "failure",
            "row_kind",
            "rows",
            "digest",
            "meta_digest",
            "size",
            "summary",
            "synthetic_rows",
            "blocked",
            "lifted_by",
            "lifted_reason",
            "lifted_at",
            "operation",
            "parent",
            "steps",
            "part",
            "source_uri",
            "source_name",
            "source_bytes",
            "source_sha256",
            "format",
            "columns",
            "skip_bad_lines",
            "job",
            "created_by",
            "created_at",
            "finished_at",
        )
        read_only_fields = fields


class DatasetSerializer(StrictModelSerializer[Dataset]):
    """A data set with its newest ready version, and its newest of any state."""

    versions = serializers.IntegerField(source="version_count", read_only=True)
    ready = serializers.SerializerMethodField()
    newest = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = (
            "id",
            "name",
            "description",
            "versions",
            "ready",
            "newest",
            "created_by",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    @extend_schema_field(BriefVersionSerializer(allow_null=True))
    def get_ready(self, dataset: Any) -> Any:
        return _brief(dataset.ready_list)

    @extend_schema_field(BriefVersionSerializer(allow_null=True))
    def get_newest(self, dataset: Any) -> Any:
        return _brief(dataset.newest_list)


def _brief(found: list[DatasetVersion]) -> Any:
    return BriefVersionSerializer(found[0]).data if found else None


class StartedImport(DatasetSerializer):
    """What creating answers: the data set, the new version and the job that imports it."""

    version = serializers.SerializerMethodField()
    job = serializers.SerializerMethodField()

    class Meta(DatasetSerializer.Meta):
        fields = (*DatasetSerializer.Meta.fields, "version", "job")  # type: ignore[assignment]
        read_only_fields = fields  # type: ignore[assignment]

    @extend_schema_field(VersionSerializer)
    def get_version(self, dataset: Dataset) -> Any:
        return VersionSerializer(self.context["version"]).data

    @extend_schema_field(OpenApiTypes.UUID)
    def get_job(self, dataset: Dataset) -> str:
        return str(self.context["version"].job_id)


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": f"part -> column, as JSON. Parts: {', '.join(PARTS)}.",
        "example": {"prompt": "question", "completion": "label"},
    }
)
class ColumnsField(serializers.Field[Any, Any, Any, Any]):
    """`{"prompt": "question"}`, as JSON or, in a form, as a text that holds JSON."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if isinstance(data, str):
            try:
                data = json.loads(data or "{}")
            except (ValueError, RecursionError):
                raise serializers.ValidationError(
                    'This is not JSON. Write it like {"prompt": "question", "completion": "label"}.'
                ) from None
        if not isinstance(data, dict) or not all(isinstance(column, str) for column in data.values()):
            raise serializers.ValidationError(
                'Write an object of texts, like {"prompt": "question", "completion": "label"}.'
            )
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class SourceField(StrictSerializer):
    """Where the rows are."""

    uri = serializers.CharField(
        max_length=1000,
        help_text="dir:NAME below DATA_DIR_ROOT, hub:org/name@revision, or s3://bucket/key (a key that ends with / "
        "stands for all below it)",
    )

    def validate_uri(self, value: str) -> Uri:
        try:
            return parse(value)
        except UserError as error:
            raise serializers.ValidationError(f"{error} {error.hint}".strip()) from None


class NewVersion(StrictSerializer):
    """A file (as multipart/form-data) or the place of one (as JSON), and how to read it."""

    file = serializers.FileField(
        required=False,
        allow_empty_file=True,
        help_text="JSON Lines, JSON, CSV, TSV, Parquet, Arrow or plain text; packed with gzip or zstd if you like",
    )
    source: Any = SourceField(required=False)
    columns = ColumnsField(required=False)
    skip_bad_lines = serializers.BooleanField(required=False, default=False)
    format = serializers.CharField(
        required=False, default="auto", max_length=60, help_text="auto, jsonl, json, csv, tsv, parquet, arrow, text"
    )
    encoding = serializers.CharField(
        required=False, default="auto", max_length=40, help_text="auto, utf-8, cp1252, shift_jis, …"
    )
    split = serializers.CharField(
        required=False, default="", allow_blank=True, max_length=100, help_text="of a folder that has several"
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        source = attrs.pop("source", None)
        if source is not None and attrs.get("file") is not None:
            raise serializers.ValidationError({"source": ["Send a file or a source, not both."]})
        return {**attrs, "file": source["uri"] if source is not None else attrs.get("file")}


class NewDataset(NewVersion):
    name = serializers.CharField(max_length=100)
    description = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)


class EditDataset(StrictSerializer):
    name = serializers.CharField(max_length=100, required=False)
    description = serializers.CharField(required=False, allow_blank=True, max_length=5000)


class RowSerializer(serializers.Serializer[StoredRow]):
    """One row. `number` counts from 1."""

    number = serializers.IntegerField()
    row = serializers.JSONField()
    meta = serializers.JSONField()
    hash = serializers.CharField()


class SuggestionSerializer(serializers.Serializer[Any]):
    """One change that is likely to help. `share` of all rows, from 0 to 1, are concerned."""

    name = serializers.CharField()
    title = serializers.CharField(help_text="what to do")
    evidence = serializers.CharField(help_text="the numbers it follows from")
    rows = serializers.IntegerField()
    share = serializers.FloatField()
    figure = serializers.CharField(help_text="where in the report they are")
    severity = serializers.ChoiceField(choices=["error", "warning", "info"])
    why = serializers.CharField(help_text="why it matters to the model")
    effect = serializers.CharField(help_text="what remains afterwards")
    steps = serializers.ListField(child=serializers.DictField(), help_text="empty where only a person can")
    prepare = serializers.CharField(help_text="the page that opens the steps; empty without any")
    url = serializers.CharField(help_text="a page where a person can do it; may be empty")
    url_words = serializers.CharField()


class SuggestionsSerializer(serializers.Serializer[Any]):
    """`steps` are those of all suggestions, as one list that can be prepared with."""

    version = serializers.UUIDField()
    reference = serializers.CharField()
    rows = serializers.IntegerField()
    suggestions = SuggestionSerializer(many=True)
    steps = serializers.ListField(child=serializers.DictField())
    prepare = serializers.CharField()
