"""`/api/v1/evaluations/`, and what training adds to `/api/v1/jobs/`."""

from collections.abc import Callable
from typing import Any

import django_filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from project.jobs.api.serializers import JobDetailSerializer
from project.jobs.api.views import JobViewSet as JobsOnly
from project.kernel import access
from project.kernel.api.base import WorkspaceViewSet
from project.kernel.api.pagination import Pages
from project.kernel.errors import invalid
from training import answers, jobfile
from training.actions import checkpoints, evaluations, finetunes
from training.answers import CHANGES, VERDICTS, Slice
from training.api import serializers as shapes
from training.methods import matrix
from training.models import Evaluation
from training.pages import pair_of
from training.planning import find_data, find_version, found_at
from training.queries import evaluations_with_all


class JobViewSet(JobsOnly):
    """Long operations: fine-tunes, evaluations, imports. Newest first."""

    parser_classes = (JSONParser,)

    @extend_schema(request=shapes.LaunchRequest, responses={201: JobDetailSerializer})
    def create(self, request: Request) -> Response:
        """Start a fine-tune from a job file: the same document as the YAML of `manage.py train`, plus `start`."""
        document, start = request.data, True
        if isinstance(document, dict) and "start" in document:
            document = dict(document)
            start = document.pop("start")
            if not isinstance(start, bool):
                raise invalid("start", "must be true or false")
        job = finetunes.launch(jobfile.parse(document), by=self.actor, start=start)
        return self.reply(job, created=True)

    @extend_schema(responses=shapes.MethodSerializer(many=True), filters=False)
    def methods(self, request: Request) -> Response:
        """Every method of fine-tuning: settings, what it can't be combined with, where its results can answer."""
        return Response(shapes.MethodSerializer([line.as_dict() for line in matrix()], many=True).data)

    @extend_schema(request=shapes.RegisterCheckpoint, responses={201: JobDetailSerializer})
    def register_checkpoint(self, request: Request, pk: str, step: int) -> Response:
        """Make a version of the weights in a checkpoint of a fine-tune. The answer is the job that does it."""
        body = self.read_body(shapes.RegisterCheckpoint)
        job = checkpoints.register_checkpoint(self.get_object(), step, **body, by=self.actor)
        return self.reply(job, created=True)


class EvaluationFilter(django_filters.FilterSet):  # type: ignore[misc]
    model_version = django_filters.UUIDFilter(field_name="version_id")
    model = django_filters.UUIDFilter(field_name="version__model_id")
    dataset_version = django_filters.UUIDFilter(field_name="data_version_id")
    state = django_filters.CharFilter(field_name="job__state")

    class Meta:
        model = Evaluation
        fields = ("learned",)


_PAGE = [OpenApiParameter("limit", OpenApiTypes.INT), OpenApiParameter("offset", OpenApiTypes.INT)]


class EvaluationViewSet(WorkspaceViewSet):
    """How versions answer the rows of data sets. An evaluation's state is that of its job."""

    queryset = Evaluation.objects.all()
    serializer_class = shapes.EvaluationSerializer
    filterset_class = EvaluationFilter
    search_fields = ("version__model__name", "data_version__dataset__name")
    ordering_fields = ["created_at"]

    def get_queryset(self) -> Any:
        super().get_queryset()
        return access.visible(evaluations_with_all().order_by("-id"), self.actor)

    @extend_schema(request=shapes.NewEvaluation, responses={201: shapes.EvaluationSerializer})
    def create(self, request: Request) -> Response:
        """Measure a version on a data set. The answer names the `job` to watch."""
        body = self.read_body(shapes.NewEvaluation)
        workspace = self.actor.workspace
        version = found_at("model_version", lambda: find_version(body.pop("model_version"), workspace=workspace))
        data = found_at("dataset_version", lambda: find_data(body.pop("dataset_version"), workspace=workspace))
        job = evaluations.launch(version, data, **body, by=self.actor)
        return self.reply(evaluations_with_all().get(job=job), created=True)

    @extend_schema(
        parameters=[
            *_PAGE,
            OpenApiParameter("verdict", enum=VERDICTS, description="only right or wrong answers"),
            OpenApiParameter("search", description="only rows that contain this"),
        ],
        responses=shapes.EvaluationRowSerializer(many=True),
        filters=False,
    )
    @action(detail=True, methods=["get"], filter_backends=[])
    def rows(self, request: Request, pk: str) -> Response:
        """Question, answer, reference and scores of each row."""
        evaluation, query = self.get_object(), request.query_params
        verdict, search = query.get("verdict", ""), query.get("search", "")
        pages, found = self._sliced(
            lambda offset, limit: answers.some(evaluation, offset=offset, limit=limit, verdict=verdict, search=search)
        )
        return pages.get_paginated_response([answer.as_dict() for answer in found.items])

    @extend_schema(
        parameters=[
            OpenApiParameter("evaluations", required=True, description="two ids, separated by a comma"),
            OpenApiParameter("change", enum=CHANGES, description="only rows that got better, got worse, or did not"),
            *_PAGE,
        ],
        responses=shapes.EvaluationComparisonSerializer,
        filters=False,
    )
    @action(detail=False, methods=["get"], filter_backends=[])
    def compare(self, request: Request) -> Response:
        """The second against the first: their numbers, and what got better or worse, row by row."""
        first, second = pair_of(self.get_queryset(), request.query_params.getlist("evaluations"))
        comparison = answers.compare(first, second)
        change = request.query_params.get("change", "")
        pages, found = self._sliced(lambda offset, limit: comparison.some(offset=offset, limit=limit, change=change))
        page = pages.get_paginated_response(shapes.AnswerPairSerializer(found.items, many=True).data).data
        context = self.get_serializer_context()
        return Response(
            {
                "first": shapes.EvaluationSerializer(first, context=context).data,
                "second": shapes.EvaluationSerializer(second, context=context).data,
                "measured_by": comparison.measured_by,
                "differences": shapes.MetricChangeSerializer(comparison.differences, many=True).data,
                "rows": len(comparison.pairs),
                "counts": comparison.counts,
                **page,
            }
        )

    def _sliced(self, read: Callable[[int, int], Slice]) -> tuple[Pages, Slice]:
        """A page of something that is no table: `read(offset, limit)`."""
        pages = Pages.asked_for(self.request)
        found = read(pages.offset, pages.limit)
        pages.count = found.total
        return pages, found
