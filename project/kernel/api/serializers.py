"""Shapes of tokens, workspaces, members and audit entries."""

from rest_framework import serializers

from project.kernel.api.base import StrictModelSerializer, StrictSerializer
from project.kernel.models import ApiToken, AuditEntry, Membership, Role, Workspace
from project.kernel.models.people import SCOPES


class TokenSerializer(StrictModelSerializer[ApiToken]):
    """A token without its secret."""

    state = serializers.CharField(read_only=True)

    class Meta:
        model = ApiToken
        fields = (
            "id",
            "name",
            "prefix",
            "role",
            "scopes",
            "state",
            "created_by",
            "created_at",
            "expires_at",
            "last_used_at",
        )
        read_only_fields = fields


class NewToken(StrictSerializer):
    name = serializers.CharField(max_length=100)
    role = serializers.ChoiceField(choices=Role.choices, required=False, default="")
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES), required=False, default=list)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


class CreatedToken(TokenSerializer):
    """The only answer that holds the secret."""

    secret = serializers.SerializerMethodField()

    class Meta:
        model = ApiToken
        fields = (*TokenSerializer.Meta.fields, "secret")
        read_only_fields = fields

    def get_secret(self, token: ApiToken) -> str:
        return str(self.context["secret"])


class WorkspaceSerializer(StrictModelSerializer[Workspace]):
    class Meta:
        model = Workspace
        fields = ("id", "name", "slug", "created_at")
        read_only_fields = ("id", "slug", "created_at")


class MemberSerializer(StrictModelSerializer[Membership]):
    user = serializers.CharField(source="user.username", read_only=True)
    email = serializers.CharField(source="user.email", read_only=True)

    class Meta:
        model = Membership
        fields = ("id", "user", "email", "role", "created_at")
        read_only_fields = ("id", "created_at")


class NewMember(StrictSerializer):
    who = serializers.CharField(max_length=150)
    role = serializers.ChoiceField(choices=Role.choices)


class AuditEntrySerializer(StrictModelSerializer[AuditEntry]):
    class Meta:
        model = AuditEntry
        fields = (
            "id",
            "at",
            "actor_kind",
            "actor_label",
            "verb",
            "object_kind",
            "object_id",
            "object_label",
            "data",
        )
        read_only_fields = fields
