"""The operator's desk: people, tokens and the audit. What happened is read-only."""

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from project.kernel.access import Actor
from project.kernel.actions import tokens
from project.kernel.models import (
    ApiToken,
    Artifact,
    AuditEntry,
    Edge,
    Endpoint,
    Membership,
    Secret,
    User,
    Workspace,
)

admin.site.unregister(Group)


def admin_actor(request: HttpRequest, workspace: Workspace) -> Actor:
    """Staff act in every workspace, by name, and the audit says so."""
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (the admin lets nobody else in)
    actor = Actor.system(f"{user.label()} (admin)", workspace)
    return Actor("user", actor.label, workspace, actor.role, user_id=user.pk)


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]
    """Facts: to be looked at, never edited here."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class MembershipInline(TabularInline):  # type: ignore[misc]
    model = Membership
    extra = 0
    autocomplete_fields = ("user",)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_active", "is_staff", "last_login", "date_joined")
    list_filter = ("is_active", "is_staff")
    filter_horizontal = ()


@admin.register(Workspace)
class WorkspaceAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ("name", "slug", "created_at")
    search_fields = ("name", "slug")
    readonly_fields = ("slug", "created_at")
    inlines = (MembershipInline,)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # everything in it would go, the audit too


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "role", "workspace", "created_by", "prefix", "last_used_at", "expires_at")
    list_filter = ("workspace", "role")
    search_fields = ("name", "prefix", "created_by")
    list_select_related = ("workspace",)
    actions = ("revoke",)

    @admin.action(description="Revoke")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        for token in queryset.select_related("workspace"):
            tokens.revoke(token, by=admin_actor(request, token.workspace))
        messages.success(request, "Revoked; they can no longer be used.")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("at", "actor_label", "verb", "object_kind", "object_label", "workspace")
    list_filter = ("workspace", "verb", "object_kind")
    search_fields = ("actor_label", "object_label", "object_id")
    list_select_related = ("workspace",)
    date_hierarchy = "at"
    show_full_result_count = False


@admin.register(Artifact)
class ArtifactAdmin(ReadOnlyAdmin):
    list_display = ("kind", "key", "size", "workspace", "created_by", "created_at")
    list_filter = ("workspace", "kind")
    search_fields = ("key", "digest")
    list_select_related = ("workspace",)


@admin.register(Edge)
class EdgeAdmin(ReadOnlyAdmin):
    list_display = ("source_kind", "source_id", "relation", "target_kind", "target_id", "created_at")
    list_filter = ("workspace", "relation")
    search_fields = ("source_id", "target_id")


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "model", "url", "workspace", "created_by", "checked_at")
    list_filter = ("workspace", "check_ok")
    search_fields = ("name", "model", "url")
    list_select_related = ("workspace",)


@admin.register(Secret)
class SecretAdmin(ReadOnlyAdmin):
    """Which there are and where they go; their values nobody sees."""

    list_display = ("name", "origin", "key_id", "workspace", "created_by", "updated_at")
    list_filter = ("workspace",)
    search_fields = ("name", "origin")
    list_select_related = ("workspace",)
    exclude = ("ciphertext",)
