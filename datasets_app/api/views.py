"""`/api/v1/datasets/`, `dataset-versions/`."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app.actions import datasets
from datasets_app.api import prepare
from datasets_app.api import serializers as shapes
from datasets_app.api.rows import RowActions
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.queries import datasets_with_versions, versions_with_all
from project.kernel import access
from project.kernel.api.base import WorkspaceViewSet

_FORM = {"multipart/form-data": shapes.NewDataset}
_VERSION_FORM = {"multipart/form-data": shapes.NewVersion, "application/json": prepare.NewPreparation}


class DatasetViewSet(WorkspaceViewSet):
    """Data sets. `{id}` is an id or a name; an unknown name is answered with the nearest known one."""

    queryset = Dataset.objects.all()
    serializer_class = shapes.DatasetSerializer
    parser_classes = (MultiPartParser, FormParser, JSONParser)
    search_fields = ("name", "description")
    ordering_fields = ["created_at", "updated_at", "name"]

    def get_queryset(self) -> Any:
        super().get_queryset()
        return access.visible(datasets_with_versions().order_by("-updated_at", "-id"), self.actor)

    def get_object(self) -> Any:
        access.require(self.actor, self.read_verb, self.actor.workspace)
        return self._fresh(datasets.find_dataset(self.actor.workspace, self.kwargs["pk"]))

    def _fresh(self, dataset: Dataset) -> Dataset:
        return datasets_with_versions().get(pk=dataset.pk)

    @extend_schema(request=_FORM, responses={201: shapes.StartedImport})
    def create(self, request: Request) -> Response:
        """Upload a file as a new data set, or say where it is. The answer names the job that imports it."""
        version = datasets.create(self.actor.workspace, **self._new(shapes.NewDataset), by=self.actor)
        return self._started(version)

    @extend_schema(request=shapes.EditDataset, responses=shapes.DatasetSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        dataset = datasets.edit(self.get_object(), **self.read_body(shapes.EditDataset), by=self.actor)
        return self.reply(self._fresh(dataset))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        datasets.delete(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(methods=["GET"], responses=shapes.BriefVersionSerializer(many=True), filters=False)
    @extend_schema(methods=["POST"], request=_VERSION_FORM, responses={201: prepare.StartedPreparation})
    @action(detail=True, methods=["get", "post"])
    def versions(self, request: Request, pk: str) -> Response:
        """The versions, newest first; or upload a file as the next one, or make it by steps (`from`, `steps`)."""
        dataset = self.get_object()
        if request.method == "POST" and isinstance(request.data, dict) and "steps" in request.data:
            made = prepare.start(self, dataset)
            context = {**self.get_serializer_context(), "version": made[0], "prepared": made}
            body = prepare.StartedPreparation(self._fresh(made[0].dataset), context=context).data
            return Response(body, status=status.HTTP_201_CREATED)
        if request.method == "POST":
            return self._started(datasets.add_version(dataset, **self._new(shapes.NewVersion), by=self.actor))
        page = self.paginate_queryset(versions_with_all().filter(dataset=dataset).order_by("-number"))
        return self.get_paginated_response(shapes.BriefVersionSerializer(page, many=True).data)

    def _new(self, shape: type[shapes.NewVersion]) -> dict[str, Any]:
        body = self.read_body(shape)
        return {**body, "file": body.get("file")}

    def _started(self, version: DatasetVersion) -> Response:
        context = {**self.get_serializer_context(), "version": version}
        body = shapes.StartedImport(self._fresh(version.dataset), context=context).data
        return Response(body, status=status.HTTP_201_CREATED)


class DatasetVersionViewSet(RowActions, prepare.PreviewActions):
    """Versions of data sets. `{id}` is an id, or a reference: `name` (the newest ready one) or `name:3`."""

    queryset = DatasetVersion.objects.select_related("dataset", "artifact")
    serializer_class = shapes.VersionSerializer
    filterset_fields = ("state", "row_kind", "digest", "dataset", "blocked")
    search_fields = ("dataset__name",)
    ordering_fields = ["created_at", "rows"]

    def get_serializer_class(self) -> Any:
        return shapes.BriefVersionSerializer if self.action == "list" else shapes.VersionSerializer

    def get_queryset(self) -> Any:
        found = super().get_queryset()
        return found.defer("report") if self.action == "list" else found

    def get_object(self) -> Any:
        access.require(self.actor, self.read_verb, self.actor.workspace)
        return datasets.find_version(self.actor.workspace, self.kwargs["pk"])
