"""What a version holds, over the API: its rows, its report, what it has other than another, and all of it as a file.

An answer has at most `portions.BUDGET` bytes of rows: `next` goes on behind the last one that fits.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app import downloads, extensions, finder, portions, suggesting
from datasets_app.actions import blocks, datasets
from datasets_app.api import serializers as shapes
from datasets_app.exporting import EXPORTS
from datasets_app.models import DatasetVersion
from datasets_app.rowqueries import PARAMETERS, read_query
from datasets_app.storage import StoredRow
from project.kernel import artifacts
from project.kernel.api.base import StrictSerializer, WorkspaceViewSet
from project.kernel.api.pagination import Pages
from project.kernel.errors import invalid

SHOWN = ("added", "removed", "changed")
MOST_HELD_OUT = 5


class LiftBlock(StrictSerializer):
    """Why people may train on the version although the checks found something fatal."""

    reason = serializers.CharField(max_length=blocks.MAX_REASON)


class PairSerializer(serializers.Serializer[Any]):
    """The numbers of two rows, and the rows. One side is null in what was added or removed."""

    old = shapes.RowSerializer(allow_null=True)
    new = shapes.RowSerializer(allow_null=True)


_PAGING = [
    OpenApiParameter("offset", int, description="rows to skip"),
    OpenApiParameter(
        "limit",
        int,
        description=f"rows to return, at most 500; fewer when they have more than {portions.BUDGET // 1024**2} MiB "
        "together (a longer row comes alone): `next` goes on behind them",
    ),
]


def _page_of(name: str, results: Any, **more: Any) -> Any:
    return inline_serializer(
        name,
        {
            **more,
            "count": serializers.IntegerField(allow_null=True, help_text="null while a search may find more"),
            "next": serializers.CharField(allow_null=True),
            "previous": serializers.CharField(allow_null=True),
            "results": results,
        },
    )


class RowActions(WorkspaceViewSet):
    """The part of `dataset-versions/{id}/` that is about rows."""

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        # The `format` of an export is the file's; elsewhere the parameter would choose how the API itself answers.
        return super().perform_content_negotiation(request, force or self.action == "export")

    def _ready(self) -> DatasetVersion:
        version: DatasetVersion = self.get_object()
        datasets.require_ready(version)
        return version

    @extend_schema(
        parameters=[*_PAGING, *(OpenApiParameter(name, kind, description=text) for name, kind, text in PARAMETERS)],
        responses=_page_of("RowsPage", shapes.RowSerializer(many=True)),
        filters=False,
    )
    @action(detail=True)
    def rows(self, request: Request, pk: str) -> Response:
        """The rows in their order, or those that are asked for, a page at a time."""
        version, (offset, limit) = self._ready(), _window(request)
        query = read_query(request.query_params)
        folder = artifacts.local_path(version.artifact)  # type: ignore[arg-type]  # ready
        if query.is_everything:
            count: int | None = version.rows
            numbers: Sequence[int] = range(offset + 1, min(offset + limit, version.rows) + 1)
        else:
            found = finder.find(version, query, offset, limit)
            count, numbers = found["count"], found["numbers"]
        rows = portions.fitting(folder, numbers)
        more = len(numbers) == limit or len(rows) < len(numbers) if count is None else offset + len(rows) < count
        return _page(request, offset, limit, more, count=count, results=[_as_json(row) for row in rows])

    @extend_schema(responses=OpenApiTypes.OBJECT, filters=False)
    @action(detail=True)
    def report(self, request: Request, pk: str) -> Response:
        """What the checks found: `summary`, `findings`, `figures`, `bad_lines`; in `see_also` where more is known."""
        version = self._ready()
        links = [dict(link) for panel in extensions.panels(version, self.actor) for link in panel.links]
        here = f"/api/v1/dataset-versions/{version.pk}/suggestions/"
        return Response({**version.report, "see_also": [{"what": "suggestions", "url": here}, *links]})

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "held_out",
                str,
                description="a version that models are measured on, an id or a reference, several with commas between: "
                "look for its rows here too, however many there are",
            )
        ],
        responses=shapes.SuggestionsSerializer,
        filters=False,
    )
    @action(detail=True)
    def suggestions(self, request: Request, pk: str) -> Response:
        """The few changes most likely to help, the best first, each with its evidence and its steps."""
        version = self._ready()
        names = [name.strip() for name in request.query_params.get("held_out", "").split(",") if name.strip()]
        if len(names) > MOST_HELD_OUT:
            raise invalid("held_out", f"Name at most {MOST_HELD_OUT} versions.")
        workspace = self.actor.workspace
        against = [datasets.resolve(workspace, name, field="held_out") for name in names]
        return Response(suggesting.all_as_json(version, suggesting.of(version, against)))

    @extend_schema(
        parameters=[
            OpenApiParameter("to", str, required=True, description="the version to compare with: an id or a reference"),
            OpenApiParameter("show", str, enum=SHOWN, description="which rows to list; added by default"),
            *_PAGING,
        ],
        responses=_page_of("DiffPage", PairSerializer(many=True), counts=serializers.JSONField()),
        filters=False,
    )
    @action(detail=True)
    def diff(self, request: Request, pk: str) -> Response:
        """What the version `to` has other than this one: rows `added`, `removed`, and `changed` (the same question)."""
        old, new, (offset, limit) = self._ready(), self._other(request), _window(request)
        show = request.query_params.get("show", "added")
        if show not in SHOWN:
            raise invalid("show", f"Use one of: {', '.join(SHOWN)}.")
        found = finder.diff(old, new, show, offset, limit)
        count = found["counts"][show]
        results = pairs(old, new, found["rows"])
        more = offset + len(results) < count
        return _page(request, offset, limit, more, counts=found["counts"], count=count, results=results)

    @extend_schema(
        parameters=[
            OpenApiParameter("to", str, required=True, description="the version that is held out"),
            OpenApiParameter("near", bool, description="list those that ask almost the same instead; takes seconds"),
            *_PAGING,
        ],
        responses=_page_of(
            "LeakagePage",
            PairSerializer(many=True),
            same=serializers.IntegerField(required=False),
            same_question=serializers.IntegerField(required=False),
            near=serializers.IntegerField(required=False),
            compared=serializers.ListField(child=serializers.IntegerField(), required=False),
        ),
        filters=False,
    )
    @action(detail=True)
    def leakage(self, request: Request, pk: str) -> Response:
        """Which rows of the held-out version `to` this one has too, or asks too: evaluations look better by them."""
        learned, held_out, (offset, limit) = self._ready(), self._other(request), _window(request)
        near = request.query_params.get("near", "false").lower()
        if near not in ("true", "false"):
            raise invalid("near", "Use true or false.")
        if near == "true":
            found = finder.similar(learned, held_out, offset, limit)
            results, count = pairs(learned, held_out, found.pop("rows")), found["near"]
            return _page(request, offset, limit, offset + len(results) < count, **found, count=count, results=results)
        found = finder.leakage(learned, held_out, offset, limit)
        count = found["same"] + found["same_question"]
        results = pairs(learned, held_out, found["rows"])
        counts = {name: found[name] for name in ("same", "same_question")}
        return _page(request, offset, limit, offset + len(results) < count, **counts, count=count, results=results)

    def _other(self, request: Request) -> DatasetVersion:
        reference = request.query_params.get("to", "")
        if not reference:
            raise invalid("to", "Name the version to compare with: an id, name or name:3.")
        return datasets.resolve(self.actor.workspace, reference, field="to")

    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=list(EXPORTS), description="jsonl by default")],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
        filters=False,
    )
    @action(detail=True)
    def export(self, request: Request, pk: str) -> StreamingHttpResponse:
        """All rows as a file."""
        return downloads.export(self._ready(), request.query_params.get("format", "jsonl"), request._request)

    @extend_schema(request=LiftBlock, responses=shapes.VersionSerializer)
    @action(detail=True, methods=["post"], url_path="lift-block")
    def lift_block(self, request: Request, pk: str) -> Response:
        """Let people train on a version with fatal findings. Needs an operator and a reason; both are recorded."""
        reason = self.read_body(LiftBlock)["reason"]
        return self.reply(blocks.lift(self.get_object(), reason, by=self.actor), serializer=shapes.VersionSerializer)


def _window(request: Request) -> tuple[int, int]:
    pages = Pages()
    return pages.get_offset(request), pages.get_limit(request) or Pages.default_limit


def _page(request: Request, offset: int, limit: int, more: bool, **body: Any) -> Response:
    """A page with the addresses of the next and the one before, which keep the other parameters."""

    def at(start: int) -> str:
        parameters = {name: text for name, text in request.query_params.items() if name not in ("limit", "offset")}
        address = urlencode({**parameters, "limit": limit, "offset": start})
        return request.build_absolute_uri(f"{request.path}?{address}")

    results = body.pop("results")
    return Response(
        {
            **body,
            "next": at(offset + len(results)) if more and results else None,
            "previous": at(max(offset - limit, 0)) if offset else None,
            "results": results,
        }
    )


def pairs(old: DatasetVersion, new: DatasetVersion, numbers: list[list[int | None]]) -> list[dict[str, Any]]:
    """[{old, new}]: the rows with these numbers, null where there is none; as many of the first as fit."""
    folders = artifacts.local_path(old.artifact), artifacts.local_path(new.artifact)  # type: ignore[arg-type]  # ready
    found = portions.fitting_pairs(folders, numbers)
    return [{"old": _as_json(one), "new": _as_json(other)} for one, other in found]


def _as_json(row: StoredRow | None) -> dict[str, Any] | None:
    # Not dataclasses.asdict, which copies all of a row.
    return None if row is None else {name: getattr(row, name) for name in ("number", "row", "meta", "hash")}
