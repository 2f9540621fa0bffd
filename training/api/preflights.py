"""`/api/v1/dataset-versions/{id}/preflight/` and `/api/v1/preflights/`."""

from dataclasses import asdict
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app import suggesting
from datasets_app.api.serializers import SuggestionsSerializer
from datasets_app.suggestions import in_order
from project.kernel import access
from project.kernel.api.base import StrictModelSerializer, StrictSerializer, WorkspaceViewSet
from project.kernel.api.pagination import Pages
from project.kernel.errors import NotFound, invalid
from training import lossmask, suggestions
from training.actions import preflights
from training.actions.preflights import DEFAULT_LENGTH, LENGTHS
from training.models import Preflight
from training.models.preflights import FLAGS
from training.planning import find_data, find_version, found_at
from training.queries import preflights_with_all


class PreflightSerializer(StrictModelSerializer[Preflight]):
    """`result` counts rows and tokens: `learned` of the `kept` ones are what the loss is over; `flags` rows by finding.

    Empty until the `job` has succeeded.
    """

    job = serializers.UUIDField(source="job_id", read_only=True)
    state = serializers.CharField(read_only=True)
    base = serializers.CharField(source="base_version.reference", read_only=True)
    base_version = serializers.UUIDField(source="base_version_id", read_only=True)
    dataset_version = serializers.UUIDField(source="data_version_id", read_only=True)
    learned_share = serializers.FloatField(
        read_only=True, allow_null=True, help_text="of the tokens that are kept, 0 to 1; null for rows without a mask"
    )

    lost_rows = serializers.IntegerField(read_only=True, help_text="rows that teach nothing")
    failure = serializers.CharField(source="job.failure_message", read_only=True)

    class Meta:
        model = Preflight
        fields = (
            *("id", "job", "state", "base", "base_version", "dataset_version", "max_seq_length"),
            *("learned_share", "lost_rows", "result", "failure", "created_at", "created_by"),
        )
        read_only_fields = fields


class NewPreflight(StrictSerializer):
    """`base` is a reference: an id, name, name@stage or name:3."""

    base = serializers.CharField(max_length=200)
    max_seq_length = serializers.IntegerField(
        min_value=LENGTHS[0], max_value=LENGTHS[-1], default=DEFAULT_LENGTH, help_text="tokens of a row that are kept"
    )


class RowViewSerializer(serializers.Serializer[Any]):
    """One row, token by token: `runs` are [kind, [text, …]], kinds are context, learned and lost (cut off)."""

    row = serializers.IntegerField()
    length = serializers.IntegerField()
    learned = serializers.IntegerField()
    flag = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    runs = serializers.ListField(child=serializers.ListField())
    more = serializers.IntegerField()


class PreflightViewSet(WorkspaceViewSet):
    """What base models would learn from data sets."""

    queryset = Preflight.objects.all()
    serializer_class = PreflightSerializer
    filterset_fields = ("data_version", "base_version")
    search_fields = ("data_version__dataset__name", "base_version__model__name")
    ordering_fields = ["created_at"]

    def get_queryset(self) -> Any:
        super().get_queryset()
        return access.visible(preflights_with_all().order_by("-id"), self.actor)

    @extend_schema(
        parameters=[
            OpenApiParameter("flag", enum=list(FLAGS), description="only rows with this finding"),
            OpenApiParameter("row", OpenApiTypes.INT, description="only this row, counted from 1"),
            OpenApiParameter("limit", OpenApiTypes.INT),
            OpenApiParameter("offset", OpenApiTypes.INT),
        ],
        responses=RowViewSerializer(many=True),
        filters=False,
    )
    @action(detail=True, methods=["get"], filter_backends=[])
    def rows(self, request: Request, pk: str) -> Response:
        """The loss mask of the rows that are kept to be looked at."""
        found, pages, row = self.get_object(), Pages.asked_for(request), request.query_params.get("row", "")
        if row and (not row.isdecimal() or len(row) > 9):
            raise invalid("row", "Use the number of a row, from 1.")
        flag, number = request.query_params.get("flag", ""), int(row) if row else None
        some = lossmask.some(found, flag=flag, row=number, offset=pages.offset, limit=pages.limit)
        pages.count = some.total
        return pages.get_paginated_response([asdict(view) for view in some.items])

    @extend_schema(responses=SuggestionsSerializer, filters=False)
    @action(detail=True, methods=["get"], filter_backends=[])
    def suggestions(self, request: Request, pk: str) -> Response:
        """What to change before training, by what was counted; nothing until the `job` has succeeded."""
        found = self.get_object()
        return Response(suggesting.all_as_json(found.data_version, in_order(suggestions.of(found))))

    @extend_schema(
        methods=["GET"],
        parameters=[
            OpenApiParameter("base", required=True, description="an id, name, name@stage or name:3"),
            OpenApiParameter("max_seq_length", OpenApiTypes.INT, description="any, if left out"),
        ],
        responses=PreflightSerializer,
    )
    @extend_schema(methods=["POST"], request=NewPreflight, responses={201: PreflightSerializer})
    def of_data(self, request: Request, pk: str) -> Response:
        """The newest preflight of a data set version for `base`; or start one. The answer names the `job` to watch."""
        workspace = self.actor.workspace
        access.require(self.actor, self.read_verb, workspace)
        data = find_data(pk, workspace=workspace)
        if request.method == "POST":
            body = self.read_body(NewPreflight)
            base = found_at("base", lambda: find_version(body["base"], workspace=workspace))
            made = preflights.launch(base, data, max_seq_length=body["max_seq_length"], by=self.actor)
            return Response(self.get_serializer(made).data, status=status.HTTP_201_CREATED)
        return Response(self.get_serializer(self._newest(request, data)).data)

    def _newest(self, request: Request, data: Any) -> Preflight:
        asked, length = request.query_params.get("base", ""), request.query_params.get("max_seq_length", "")
        if not asked:
            raise invalid("base", "Say for which base model, as in ?base=smollm2-135m-instruct.")
        if length and (not length.isdecimal() or len(length) > 9):
            raise invalid("max_seq_length", "must be a whole number")
        base = found_at("base", lambda: find_version(asked, workspace=self.actor.workspace))
        rows = self.get_queryset().filter(data_version=data, base_version=base)
        found: Preflight | None = (rows.filter(max_seq_length=int(length)) if length else rows).first()
        if found is None:
            raise NotFound(f"Nobody has looked at {data} for {base} yet. POST here to start.")
        return found
