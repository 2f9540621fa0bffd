"""Shapes of tokens, workspaces, members and audit entries."""

from rest_framework import serializers

from project.kernel.api.base import StrictModelSerializer, StrictSerializer
from project.kernel.models import ApiToken, AuditEntry, Endpoint, Membership, Role, Workspace
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


class EndpointSerializer(StrictModelSerializer[Endpoint]):
    """An endpoint. Of its token it says only whether there is one."""

    has_token = serializers.SerializerMethodField()
    state = serializers.ChoiceField(choices=["unchecked", "ready", "failed"], read_only=True)

    class Meta:
        model = Endpoint
        fields = (
            *("id", "name", "url", "model", "has_token", "state", "checked_at", "check_detail"),
            *("created_by", "created_at", "updated_at"),
        )
        read_only_fields = fields

    def get_has_token(self, endpoint: Endpoint) -> bool:
        return endpoint.secret_id is not None


class NewEndpoint(StrictSerializer):
    """`token` is stored encrypted, and never shown again."""

    name = serializers.CharField(max_length=100)
    url = serializers.CharField(max_length=500)
    model = serializers.CharField(max_length=200)
    token = serializers.CharField(required=False, allow_blank=True, default="", write_only=True, trim_whitespace=True)


class ChangedEndpoint(StrictSerializer):
    """What is left out stays; an empty `token` takes the token away."""

    name = serializers.CharField(max_length=100, required=False)
    url = serializers.CharField(max_length=500, required=False)
    model = serializers.CharField(max_length=200, required=False)
    token = serializers.CharField(required=False, allow_blank=True, write_only=True, trim_whitespace=True)


class CheckedEndpoint(StrictSerializer):
    """What came of a real call. `models` is what the server lists, if it lists any."""

    ok = serializers.BooleanField()
    detail = serializers.CharField()
    hint = serializers.CharField()
    models = serializers.ListField(child=serializers.CharField())
    seconds = serializers.FloatField()
