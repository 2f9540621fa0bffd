"""`/api/v1/models/`, `model-versions/`, `deployments/`."""

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, make_aware
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from project.kernel import access
from project.kernel.api.base import WorkspaceViewSet
from project.kernel.errors import invalid
from registry import comparison, lineage
from registry.actions import deployments, models, stages, versions
from registry.actions.references import find_model, resolve
from registry.api import serializers as shapes
from registry.models import Deployment, ModelVersion, RegisteredModel, Route
from registry.queries import models_with_versions, versions_with_all


class ModelViewSet(WorkspaceViewSet):
    """Models. `{id}` is an id or a name; an unknown name is answered with the nearest known one."""

    queryset = RegisteredModel.objects.all()
    serializer_class = shapes.ModelSerializer
    search_fields = ("name", "description")
    ordering_fields = ["created_at", "updated_at", "name"]

    def get_queryset(self) -> Any:
        super().get_queryset()
        return access.visible(models_with_versions().order_by("-updated_at", "-id"), self.actor)

    def get_object(self) -> RegisteredModel:
        access.require(self.actor, self.read_verb, self.actor.workspace)
        model = find_model(self.actor.workspace, self.kwargs["pk"])
        return models_with_versions().get(pk=model.pk)

    def _fresh(self, model: RegisteredModel) -> RegisteredModel:
        return models_with_versions().get(pk=model.pk)

    @extend_schema(request=shapes.NewModel, responses={201: shapes.ModelSerializer})
    def create(self, request: Request) -> Response:
        model = models.create(self.actor.workspace, **self.read_body(shapes.NewModel), by=self.actor)
        return self.reply(self._fresh(model), created=True)

    @extend_schema(request=shapes.EditModel, responses=shapes.ModelSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        model = models.edit(self.get_object(), **self.read_body(shapes.EditModel), by=self.actor)
        return self.reply(self._fresh(model))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        models.delete(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=shapes.ImportRequest, responses={202: shapes.ImportStarted})
    @action(detail=False, methods=["post"], url_path="import")
    def start_import(self, request: Request) -> Response:
        """Import a base model or an adapter: from an installed package, a folder on the server, or the Hub."""
        body = self.read_body(shapes.ImportRequest)
        job = models.import_model(**body, workspace=self.actor.workspace, by=self.actor)
        return Response({"job": str(job.pk), "name": job.params["name"]}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=shapes.ModelVersionSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[])
    def versions(self, request: Request, pk: str) -> Response:
        """All versions of a model, the newest first."""
        rows = versions_with_all().filter(model=self.get_object()).order_by("-number")
        return self._listed(rows, shapes.ModelVersionSerializer)

    @extend_schema(responses=shapes.StageChangeSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[])
    def history(self, request: Request, pk: str) -> Response:
        """Every step between stages, the newest first. Nobody can edit it."""
        return self._listed(self.get_object().stage_changes.order_by("-id"), shapes.StageChangeSerializer)

    @extend_schema(responses=shapes.RouteSerializer)
    @action(detail=True, methods=["get"])
    def route(self, request: Request, pk: str) -> Response:
        """Who answers for this model's name at the moment; `null` before the first deployment of production."""
        arms = Prefetch("arms__deployment", Deployment.objects.select_related("version__model"))
        route = Route.objects.filter(model=self.get_object()).prefetch_related(arms).first()
        return self.reply(route, serializer=shapes.RouteSerializer) if route else Response(None)

    @extend_schema(
        parameters=[OpenApiParameter("time", OpenApiTypes.DATETIME, required=True)],
        responses=shapes.InProductionSerializer,
    )
    @action(detail=True, methods=["get"])
    def at(self, request: Request, pk: str) -> Response:
        """What was in production at a moment."""
        return self.reply(stages.at(self.get_object(), _time(request)), serializer=shapes.InProductionSerializer)

    @extend_schema(
        parameters=[OpenApiParameter("versions", str, required=True, description="references, separated by commas")],
        responses=shapes.ComparisonSerializer,
    )
    @action(detail=False, methods=["get"])
    def compare(self, request: Request) -> Response:
        """Two to five versions side by side; the first is what the others are compared with."""
        access.require(self.actor, self.read_verb, self.actor.workspace)
        names = [name for name in request.query_params.get("versions", "").split(",") if name.strip()]
        if not 2 <= len(names) <= comparison.MOST:
            raise invalid("versions", f"Name 2 to {comparison.MOST} versions, separated by commas.")
        found = [resolve(self.actor.workspace, name, field="versions") for name in names]
        return self.reply(comparison.compare(found), serializer=shapes.ComparisonSerializer)

    def _listed(self, rows: QuerySet[Any], serializer: Any) -> Response:
        return self.get_paginated_response(serializer(self.paginate_queryset(rows), many=True).data)


def _time(request: Request) -> Any:
    text = request.query_params.get("time", "")
    try:
        time = parse_datetime(text.replace(" ", "+"))  # a '+' of the offset that was not escaped arrives as a blank
    except ValueError:
        time = None
    if time is None:
        raise invalid("time", "Use a moment like 2026-11-21T10:30:00Z.")
    return make_aware(time) if is_naive(time) else time


class VersionViewSet(WorkspaceViewSet):
    """Versions. `{id}` is an id or a reference: `name`, `name@stage`, `name:3`."""

    queryset = ModelVersion.objects.all()
    serializer_class = shapes.ModelVersionSerializer
    filterset_fields = ("stage", "kind", "origin", "model", "data_digest")
    search_fields = ("model__name", "notes")
    ordering_fields = ["created_at", "number", "stage_changed_at"]

    def get_queryset(self) -> Any:
        super().get_queryset()
        return access.visible(versions_with_all(), self.actor)

    def get_object(self) -> ModelVersion:
        access.require(self.actor, self.read_verb, self.actor.workspace)
        return resolve(self.actor.workspace, self.kwargs["pk"])

    @extend_schema(responses=shapes.ModelVersionDetail)
    def retrieve(self, request: Request, pk: str) -> Response:
        return self.reply(self.get_object(), serializer=shapes.ModelVersionDetail)

    @extend_schema(request=shapes.VersionNotes, responses=shapes.ModelVersionSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change the notes. NoFields else about a version changes."""
        return self.reply(versions.annotate(self.get_object(), **self.read_body(shapes.VersionNotes), by=self.actor))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        versions.delete(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=shapes.StepComment, responses=shapes.ModelVersionSerializer)
    @action(detail=True, methods=["post"])
    def submit(self, request: Request, pk: str) -> Response:
        """Ask for promotion: to staging."""
        return self._step(versions.submit)

    @extend_schema(request=shapes.StepComment, responses=shapes.ModelVersionSerializer)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        """Say in the record that it may go to production."""
        return self._step(versions.approve)

    @extend_schema(request=shapes.StepComment, responses=shapes.ModelVersionSerializer)
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, pk: str) -> Response:
        """Make it the one in production, if the gates let it. A 409 says what they miss."""
        return self._step(versions.promote)

    @extend_schema(request=shapes.StepComment, responses=shapes.ModelVersionSerializer)
    @action(detail=True, methods=["post"])
    def archive(self, request: Request, pk: str) -> Response:
        """Put it away."""
        return self._step(versions.archive)

    def _step(self, verb: Any) -> Response:
        return self.reply(verb(self.get_object(), **self.read_body(shapes.StepComment), by=self.actor))

    @extend_schema(request=shapes.NoFields, responses={201: shapes.DeploymentSerializer})
    @action(detail=True, methods=["post"])
    def deploy(self, request: Request, pk: str) -> Response:
        """Make it ready to answer. Doing it again returns the same deployment."""
        self.read_body(shapes.NoFields)
        deployment = deployments.deploy(self.get_object(), by=self.actor)
        return self.reply(deployment, created=True, serializer=shapes.DeploymentSerializer)

    @extend_schema(responses=shapes.ScoreSerializer(many=True))
    @action(detail=True, methods=["get"], filter_backends=[])
    def scores(self, request: Request, pk: str) -> Response:
        """Every score it ever got, the newest first."""
        rows = self.get_object().scores.order_by("-evaluated_at", "metric")
        return self.get_paginated_response(shapes.ScoreSerializer(self.paginate_queryset(rows), many=True).data)

    @extend_schema(responses=shapes.LineageSerializer)
    @action(detail=True, methods=["get"])
    def lineage(self, request: Request, pk: str) -> Response:
        """What it was made from, and what was made from it: one step."""
        return self.reply(lineage.of(self.get_object()), serializer=shapes.LineageSerializer)


class DeploymentViewSet(WorkspaceViewSet):
    """Deployments: what should answer, and what became of it."""

    queryset = Deployment.objects.select_related("version__model", "engine")
    serializer_class = shapes.DeploymentSerializer
    filterset_fields = ("state", "wanted", "target", "version")
    search_fields = ("version__model__name",)
    ordering_fields = ["created_at", "state_changed_at"]

    @extend_schema(request=shapes.NoFields, responses=shapes.DeploymentSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        """Stop answering with it. Answers under way are finished."""
        self.read_body(shapes.NoFields)
        return self.reply(deployments.stop(self.get_object(), by=self.actor))

    @extend_schema(responses=shapes.DeploymentHealth)
    @action(detail=True, methods=["get"])
    def health(self, request: Request, pk: str) -> Response:
        """Is it well?"""
        return self.reply(self.get_object(), serializer=shapes.DeploymentHealth)
