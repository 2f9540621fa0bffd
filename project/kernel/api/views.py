"""`/api/v1/tokens/`, `workspaces/`, `members/`, `endpoints/`, `audit/`."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from project.kernel.actions import endpoints, people, tokens
from project.kernel.api import serializers as shapes
from project.kernel.api.base import WorkspaceViewSet
from project.kernel.models import ApiToken, AuditEntry, Endpoint, Membership, Workspace


class TokenViewSet(WorkspaceViewSet):
    """Tokens of programs. Owners see everybody's, others their own. The secret is in the answer to `create` only."""

    queryset = ApiToken.objects.all()
    serializer_class = shapes.TokenSerializer
    filterset_fields = ("role",)
    search_fields = ("name",)
    ordering_fields = ["created_at", "name", "last_used_at"]

    def get_queryset(self) -> Any:
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False) or self.actor.may("token.manage"):
            return rows
        return rows.filter(user_id=self.actor.user_id) if self.actor.user_id else rows.filter(pk=self.actor.token_id)

    @extend_schema(request=shapes.NewToken, responses={201: shapes.CreatedToken})
    def create(self, request: Request) -> Response:
        token, secret = tokens.create(**self.read_body(shapes.NewToken), by=self.actor)
        context = {**self.get_serializer_context(), "secret": secret}
        return Response(shapes.CreatedToken(token, context=context).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Revoke: it can no longer be used; its row stays for the audit."""
        tokens.revoke(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class WorkspaceViewSetOfMine(WorkspaceViewSet):
    """The workspace this token or session is in."""

    queryset = Workspace.objects.all()
    serializer_class = shapes.WorkspaceSerializer
    ordering_fields = ["name", "created_at"]

    @extend_schema(request=shapes.WorkspaceSerializer, responses=shapes.WorkspaceSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        body = self.read_body(shapes.WorkspaceSerializer)
        return self.reply(people.rename_workspace(self.get_object(), body["name"], by=self.actor))


class MemberViewSet(WorkspaceViewSet):
    """Who belongs to the workspace, and as what."""

    queryset = Membership.objects.select_related("user")
    serializer_class = shapes.MemberSerializer
    search_fields = ("user__username", "user__email")
    ordering_fields = ["created_at", "role"]

    @extend_schema(request=shapes.NewMember, responses={201: shapes.MemberSerializer})
    def create(self, request: Request) -> Response:
        """Add somebody. For a person without an account the answer carries a one-time `sign_in_path`."""
        membership, secret = people.add_member(**self.read_body(shapes.NewMember), by=self.actor)
        response = self.reply(membership, created=True)
        if secret:
            response.data["sign_in_path"] = f"/sign-in/{secret}/"
        return response

    @extend_schema(request=shapes.MemberSerializer, responses=shapes.MemberSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        body = self.read_body(shapes.MemberSerializer)
        return self.reply(people.change_role(self.get_object(), body["role"], by=self.actor))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        people.remove_member(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)


class EndpointViewSet(WorkspaceViewSet):
    """Models elsewhere, behind an OpenAI-compatible address. Operators write them, editors use them."""

    queryset = Endpoint.objects.all()
    serializer_class = shapes.EndpointSerializer
    search_fields = ("name", "model", "url")
    ordering_fields = ["name", "created_at"]

    @extend_schema(request=shapes.NewEndpoint, responses={201: shapes.EndpointSerializer})
    def create(self, request: Request) -> Response:
        return self.reply(endpoints.create(**self.read_body(shapes.NewEndpoint), by=self.actor), created=True)

    @extend_schema(request=shapes.ChangedEndpoint, responses=shapes.EndpointSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        body = self.read_body(shapes.ChangedEndpoint)
        return self.reply(endpoints.change(self.get_object(), **body, by=self.actor))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Remove it, with its token. 409 while a job that has not ended needs it."""
        endpoints.delete(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=shapes.CheckedEndpoint)
    @action(detail=True, methods=["post"])
    def check(self, request: Request, pk: str) -> Response:
        """Call it now, and say whether it answers, and what is wrong if it does not."""
        return self.reply(endpoints.check(self.get_object(), by=self.actor), serializer=shapes.CheckedEndpoint)


class AuditViewSet(WorkspaceViewSet):
    """Who did what. Read-only, for ever."""

    queryset = AuditEntry.objects.all()
    serializer_class = shapes.AuditEntrySerializer
    read_verb = "audit.read"
    filterset_fields = ("verb", "object_kind", "object_id", "actor_label")
    search_fields = ("object_label", "actor_label")
    ordering_fields = ["at"]
