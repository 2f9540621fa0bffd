"""Preparation over the API: which steps there are, what they would do to ten rows, and a new version made by them."""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from datasets_app import expressions
from datasets_app.actions import datasets, preparations
from datasets_app.api import serializers as shapes
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.preparing import AUGMENT, ELSEWHERE, STEPS, StepPlugin
from datasets_app.previewing import MOST_ROWS, ROWS
from project.kernel import access
from project.kernel.api.base import ActorMixin, StrictSerializer, WorkspaceViewSet
from project.kernel.errors import NotReady


@extend_schema_field(
    {
        "type": "array",
        "items": {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]},
        "description": "Each step has its type and parameters; /api/v1/dataset-steps/ has their schemas.",
        "example": [{"type": "filter", "condition": "length > 10"}, {"type": "transform", "operation": "lowercase"}],
    }
)
class StepsField(serializers.JSONField):
    """Judged as a whole by `preparing.parse`, which names step and field."""


class NewPreparation(StrictSerializer):
    """Steps over the rows of a ready version."""

    # `from` is a word of Python; the serializer's fields are given by name below.
    steps = StepsField()
    seed = serializers.IntegerField(required=False, default=0, min_value=0, help_text="same seed, same rows")

    def get_fields(self) -> dict[str, Any]:
        source = serializers.CharField(
            required=False, default="", help_text="the version to start from; this data set's newest ready one"
        )
        return {"from": source, **super().get_fields()}


class NewPreview(StrictSerializer):
    steps = StepsField()
    seed = serializers.IntegerField(required=False, default=0, min_value=0)
    start = serializers.IntegerField(required=False, default=0, min_value=0, help_text="rows to pass over")
    rows = serializers.IntegerField(required=False, default=ROWS, min_value=1, max_value=MOST_ROWS)


class ShownSerializer(serializers.Serializer[Any]):
    """What becomes of one row. `number` 0 is a row of another data set; `step` is the one that dropped it, else 0."""

    number = serializers.IntegerField()
    before = serializers.JSONField(allow_null=True)
    before_meta = serializers.JSONField()
    after = serializers.JSONField(help_text="a list: none, one or several rows")
    after_meta = serializers.JSONField()
    changed = serializers.BooleanField()
    step = serializers.IntegerField()
    why = serializers.CharField()
    part = serializers.CharField(help_text="which part of a split it goes to, of these rows alone")
    left_out = serializers.IntegerField(help_text="messages and other parts of long lists that are not shown")


class PreviewSerializer(serializers.Serializer[Any]):
    rows = ShownSerializer(many=True)
    steps = serializers.JSONField(help_text="per step: rows_in, rows_out, dropped, changed, added, why, notes")


class StartedPreparation(shapes.StartedImport):
    """The first version that is made, as after an upload; `prepared` has all of them, one per part of a split."""

    prepared = serializers.SerializerMethodField()

    class Meta(shapes.StartedImport.Meta):
        fields = (*shapes.StartedImport.Meta.fields, "prepared")  # type: ignore[assignment]
        read_only_fields = fields  # type: ignore[assignment]

    @extend_schema_field(shapes.VersionSerializer(many=True))
    def get_prepared(self, dataset: Dataset) -> Any:
        return shapes.VersionSerializer(self.context["prepared"], many=True).data


def start(view: WorkspaceViewSet, dataset: Dataset) -> list[DatasetVersion]:
    """The versions that the body of this request asks for. Raises what becomes a 4xx."""
    body = view.read_body(NewPreparation)
    source = _source(view, dataset, body["from"])
    return preparations.prepare(source, body["steps"], by=view.actor, to=dataset.name, seed=body["seed"])


def _source(view: WorkspaceViewSet, dataset: Dataset, reference: str) -> DatasetVersion:
    if reference:
        return datasets.resolve(view.actor.workspace, reference, field="from")
    newest = dataset.versions.filter(state="ready").select_related("dataset", "artifact").order_by("-number").first()
    if newest is None:
        raise NotReady(f"{dataset} has no ready version to start from. Name one with 'from'.")
    return newest


class PreviewActions(WorkspaceViewSet):
    """`preview/` of a version."""

    @extend_schema(request=NewPreview, responses=PreviewSerializer, filters=False)
    @action(detail=True, methods=["post"])
    def preview(self, request: Request, pk: str) -> Response:
        """What steps would do to some rows: before, after, and which step drops what. Nothing is written."""
        version = self.get_object()
        body = self.read_body(NewPreview)
        answer = preparations.preview(version, body.pop("steps"), by=self.actor, **body)
        return Response(answer.model_dump(include={"rows", "steps"}))


class StepSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    schema = serializers.JSONField(help_text="JSON Schema of the parameters")
    example = serializers.JSONField()


class StepCatalogue(serializers.Serializer[Any]):
    steps = StepSerializer(many=True)
    names = serializers.DictField(child=serializers.CharField(), help_text="what conditions and templates ask about")
    functions = serializers.DictField(child=serializers.CharField())
    elsewhere = serializers.DictField(
        child=serializers.CharField(), help_text="what is no step because a model has to write: the call that does it"
    )


class StepsViewSet(ActorMixin, ViewSet):
    """The preparation steps that this installation knows."""

    @extend_schema(responses=StepCatalogue)
    def list(self, request: Request) -> Response:
        """Every step with the schema of its parameters, and the language of conditions."""
        access.require(self.actor, "workspace.read", self.actor.workspace)
        return Response(
            {
                "steps": [described(step) for step in STEPS.all()],
                "names": expressions.NAMES,
                "functions": expressions.FUNCTIONS,
                "elsewhere": dict.fromkeys(ELSEWHERE, f"POST {AUGMENT}"),
            }
        )


def described(step: StepPlugin) -> dict[str, Any]:
    """A step for people who write lists of them."""
    return {
        "name": step.name,
        "title": step.label,
        "description": (step.__doc__ or "").strip(),
        "schema": step.Params.model_json_schema(),
        "example": {"type": step.name, **step.Params.example},
    }
