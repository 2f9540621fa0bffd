"""`/api/v1/jobs/`: read, start, pause, resume, cancel, adjust and retry.

Making a fine-tune there is the training app's (it extends this).
"""

from typing import Any

from django.db import models
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from project.contracts.runs import RECIPES
from project.jobs import charts, checkpoints, logs
from project.jobs.actions import jobs
from project.jobs.api import serializers as shapes
from project.jobs.models import Job
from project.kernel.api.base import WorkspaceViewSet
from project.kernel.errors import NotFound, invalid

_MOST_EVENTS = 1000
_MOST_KEYS = 50


class JobViewSet(WorkspaceViewSet):
    """Long operations: fine-tunes, evaluations, imports. Newest first."""

    queryset = Job.objects.all()
    serializer_class = shapes.JobDetailSerializer
    filterset_fields = ("state", "recipe", "queue", "subject_kind", "subject_id")
    search_fields = ("title",)
    ordering_fields = ["created_at", "started_at", "finished_at", "priority", "title"]

    def get_queryset(self) -> "models.QuerySet[Job]":
        rows: models.QuerySet[Job] = super().get_queryset()
        return rows if self.action == "list" else rows.prefetch_related("attempts")

    def get_serializer_class(self) -> Any:
        return shapes.JobSerializer if self.action == "list" else shapes.JobDetailSerializer

    @extend_schema(request=None, responses=shapes.JobDetailSerializer)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        """Put a draft into its queue."""
        return self.reply(jobs.start(self.get_object(), by=self.actor))

    @extend_schema(request=None, responses=shapes.JobDetailSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """End it. A running job is `cancelled` once its engine is gone; until then `cancel_requested_at` is set."""
        return self.reply(jobs.cancel(self.get_object(), by=self.actor))

    @extend_schema(request=None, responses=shapes.JobDetailSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Save what is done, if it can, and wait for `resume`. Until its engine is gone the job is `pausing`."""
        return self.reply(jobs.pause(self.get_object(), by=self.actor))

    @extend_schema(request=None, responses=shapes.JobDetailSerializer)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        """Let a paused job go on from its last checkpoint."""
        return self.reply(jobs.resume(self.get_object(), by=self.actor))

    @extend_schema(request=shapes.AdjustSerializer, responses=shapes.JobDetailSerializer)
    @action(detail=True, methods=["post"])
    def adjust(self, request: Request, pk: str) -> Response:
        """Change the priority of a job that waits, or the limits of one that has not ended."""
        wanted = shapes.AdjustSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        return self.reply(jobs.adjust(self.get_object(), self.actor, **wanted.validated_data))

    @extend_schema(request=shapes.RetrySerializer, responses={201: shapes.JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """A new job with the same recipe, parameters and inputs as one that has ended; `remedy` changes parameters."""
        wanted = shapes.RetrySerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        return self.reply(jobs.retry(self.get_object(), self.actor, **wanted.validated_data), created=True)

    @extend_schema(
        parameters=[
            OpenApiParameter("after", int, description="only events with a greater `seq`"),
            OpenApiParameter("limit", int, description=f"1 to {_MOST_EVENTS}, default 200"),
        ],
        responses=shapes.EventPageSerializer,
    )
    @action(detail=True, filterset_fields=(), search_fields=())
    def events(self, request: Request, pk: str) -> Response:
        """What happened, in order. Ask again with the last `seq` for what came since."""
        job = self.get_object()
        after = _number(request, "after", 0, range(2**62))
        limit = _number(request, "limit", 200, range(1, _MOST_EVENTS + 1))
        rows = job.events.filter(seq__gt=after).order_by("seq")[:limit]
        return Response({"results": [shapes.event_document(row) for row in rows], "last_seq": job.last_seq})

    @extend_schema(
        parameters=[
            OpenApiParameter("keys", str, description="comma-separated; all when left out"),
            OpenApiParameter("px", int, description="width of the chart in pixels, 10 to 5000, default 800"),
        ],
        responses=shapes.MetricsSerializer,
    )
    @action(detail=True, filterset_fields=(), search_fields=())
    def metrics(self, request: Request, pk: str) -> Response:
        """Numbers over steps, of more than fit on `px` pixels the least and the greatest of each."""
        job = self.get_object()
        px = _number(request, "px", 800, charts.PIXELS)
        known = charts.keys_of(job)
        asked = [key for key in request.query_params.get("keys", "").split(",") if key] or known
        if len(asked) > _MOST_KEYS:
            raise invalid("keys", f"Ask for at most {_MOST_KEYS} at once.")
        drawn = charts.series(job, asked, px=px)
        series = {key: {"steps": s.steps, "values": s.values, "count": s.count} for key, s in drawn.items()}
        return Response({"series": series, "keys": known, "last_seq": job.last_seq})

    @extend_schema(
        parameters=[
            OpenApiParameter("offset", int, description="bytes; without it the end of the log"),
            OpenApiParameter("limit", int, description="bytes, at most 1048576"),
            OpenApiParameter("attempt", int, description="which try; the last one when left out"),
        ],
        responses=shapes.LogSerializer,
    )
    @action(detail=True, filterset_fields=(), search_fields=())
    def log(self, request: Request, pk: str) -> Response:
        """What the engine printed."""
        part = logs.part(
            self.get_object(),
            attempt=_number(request, "attempt", None, range(1, 2**31)),
            offset=_number(request, "offset", None, range(2**62)),
            limit=_number(request, "limit", logs.TAIL, range(1, 2**20 + 1)),
        )
        if part is None:
            raise NotFound("There is no such try, so it has no log.")
        return Response(shapes.LogSerializer(part).data)

    @extend_schema(responses=shapes.CheckpointSerializer(many=True))
    @action(detail=True, filterset_fields=(), search_fields=(), pagination_class=None)
    def checkpoints(self, request: Request, pk: str) -> Response:
        """All checkpoints there ever were, the furthest first. `retry` may start from one that is `usable`."""
        return Response(shapes.CheckpointSerializer(checkpoints.of(self.get_object()), many=True).data)

    @extend_schema(responses=shapes.RecipeSerializer(many=True))
    @action(detail=False, filterset_fields=(), search_fields=(), pagination_class=None)
    def recipes(self, request: Request) -> Response:
        """What jobs can do, and the schema of each one's parameters."""
        return Response(shapes.RecipeSerializer(RECIPES.all(), many=True).data)


def _number(request: Request, name: str, default: Any, allowed: range) -> Any:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isdecimal() and len(text) < 20 and int(text) in allowed):
        raise invalid(name, f"Use a whole number from {allowed[0]} to {allowed[-1]}.")
    return int(text)


__all__ = ["JobViewSet"]
