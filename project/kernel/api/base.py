"""What the API views and serializers of every app are made of."""

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from django.core.exceptions import ValidationError
from django.db import models
from django.http import Http404
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from project.kernel import access
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Forbidden, invalid
from project.kernel.models.idempotency import IdempotentReply

M = TypeVar("M", bound=models.Model)


class _RefusesUnknown:
    """A field nobody knows is an error with the nearest known name: a silently ignored typo costs a training run."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = [name for name, field in cast(Any, self).fields.items() if not field.read_only]
            unknown = {name: [unknown_field(name, known)] for name in data if name not in known}
            if unknown:
                raise serializers.ValidationError(unknown)
        return cast(Any, super()).to_internal_value(data)


def unknown_field(name: str, known: list[str]) -> str:
    """What to say about a field nobody knows."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Unknown field. Did you mean '{near[0]}'?" if near else f"Unknown field. Known: {', '.join(known)}."


class StrictSerializer(_RefusesUnknown, serializers.Serializer[Any]):
    """A serializer that refuses unknown fields."""


class StrictModelSerializer(_RefusesUnknown, serializers.ModelSerializer[M]):
    """A model serializer that refuses unknown fields."""


class ActorMixin:
    """`self.actor`: who asks."""

    request: Any

    @property
    def actor(self) -> Actor:
        actor = self.request.auth
        if not isinstance(actor, Actor):
            raise Forbidden("Sign in or send a token.")
        return actor


class WorkspaceViewSet(ActorMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """List and get the objects of the asker's workspace. Subclasses add verbs that call actions.

    `read_verb` is what reading needs, `serializer_class` the shape, `queryset` all objects.
    """

    read_verb = "workspace.read"
    lookup_value_regex = "[^/]+"
    ordering_fields: list[str] = ["created_at"]

    def get_queryset(self) -> models.QuerySet[Any]:
        if getattr(self, "swagger_fake_view", False):
            return super().get_queryset()
        access.require(self.actor, self.read_verb, self.actor.workspace)
        return access.visible(super().get_queryset(), self.actor)

    def get_object(self) -> Any:
        try:
            return super().get_object()
        except (ValidationError, ValueError, Http404):
            model = cast(Any, self.queryset).model
            raise Http404(f"No such {model._meta.verbose_name}.") from None

    def read_body(self, serializer: type[serializers.BaseSerializer[Any]], **kwargs: Any) -> dict[str, Any]:
        """The validated body. Raises what becomes a 400 that names the fields."""
        shape = serializer(data=self.request.data, context=self.get_serializer_context(), **kwargs)
        shape.is_valid(raise_exception=True)
        return cast(dict[str, Any], shape.validated_data)

    def reply(self, obj: Any, *, created: bool = False, serializer: Any = None) -> Response:
        """`obj` in this view's shape."""
        shape = (serializer or self.get_serializer_class())(obj, context=self.get_serializer_context())
        return Response(shape.data, status=status.HTTP_201_CREATED if created else status.HTTP_200_OK)

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._idempotency: IdempotentReply | None = None
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        key = request.headers.get("Idempotency-Key")
        if request.method == "POST" and key:
            if len(key) > 200:
                raise invalid("Idempotency-Key", "Use at most 200 characters.")
            self._idempotency = IdempotentReply.claim(self.actor.workspace, request.path, key)
            if self._idempotency.body is not None:
                raise Replayed(self._idempotency)
            if not self._idempotency.fresh:
                self._idempotency = None
                raise Conflict("A request with this Idempotency-Key is still being worked on.")

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, Replayed):
            headers = {"Idempotent-Replayed": "true"}
            return Response(json.loads(exc.reply.body or "null"), status=exc.reply.status, headers=headers)
        return super().handle_exception(exc)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if self._idempotency is not None:
            if response.status_code < 300:
                response.render()
                self._idempotency.keep(response.status_code, response.content.decode())
            else:
                self._idempotency.delete()  # a failed request may be tried again
        return response


class Replayed(Exception):
    """This Idempotency-Key was answered before."""

    def __init__(self, reply: IdempotentReply) -> None:
        self.reply = reply


__all__ = [
    "ActorMixin",
    "StrictModelSerializer",
    "StrictSerializer",
    "WorkspaceViewSet",
    "unknown_field",
]
