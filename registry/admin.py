"""The operator's desk: models, versions, what serves them, and what happened. Buttons call actions."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import TabularInline

from project.kernel.admin import ReadOnlyAdmin, admin_actor
from project.kernel.errors import Problem
from registry.actions import deployments, versions
from registry.models import Deployment, Engine, ModelVersion, RegisteredModel, Route, RouteArm, Score, StageChange


def each(request: HttpRequest, rows: QuerySet[Any], call: Callable[[Any], Any], done: str) -> None:
    """Do `call` for every chosen row; say how many it was, and every refusal in its own words."""
    good = 0
    for row in rows:
        try:
            call(row)
            good += 1
        except Problem as problem:
            messages.error(request, problem.detail)
    if good:
        messages.success(request, f"{good} {done}.")


class ReadOnlyInline(TabularInline):  # type: ignore[misc]
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class VersionInline(ReadOnlyInline):
    model = ModelVersion
    fields = ("number", "stage", "kind", "origin", "created_by", "created_at")
    readonly_fields = fields
    ordering = ("-number",)
    show_change_link = True


@admin.register(RegisteredModel)
class RegisteredModelAdmin(ReadOnlyAdmin):
    list_display = ("name", "last_number", "workspace", "created_by", "updated_at")
    list_filter = ("workspace",)
    search_fields = ("name", "description")
    list_select_related = ("workspace",)
    inlines = (VersionInline,)


class ScoreInline(ReadOnlyInline):
    model = Score
    fields = ("metric", "value", "low", "high", "n", "data_label", "evaluated_at")
    readonly_fields = fields
    ordering = ("-evaluated_at",)


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "stage", "kind", "origin", "base", "size", "workspace", "created_by", "created_at")
    list_filter = ("stage", "kind", "origin", "workspace")
    search_fields = ("model__name", "id", "notes", "data_digest")
    list_select_related = ("workspace", "model", "base__model", "artifact")
    inlines = (ScoreInline,)
    actions = ("promote", "submit", "archive", "deploy")

    @admin.display(ordering="artifact__size", description="Bytes")
    def size(self, version: ModelVersion) -> int:
        return version.artifact.size

    @admin.action(description="Promote to production")
    def promote(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        self._each(request, queryset, versions.promote, "promoted")

    @admin.action(description="Submit to staging")
    def submit(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        self._each(request, queryset, versions.submit, "submitted")

    @admin.action(description="Archive")
    def archive(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        self._each(request, queryset, versions.archive, "archived")

    @admin.action(description="Deploy")
    def deploy(self, request: HttpRequest, queryset: QuerySet[ModelVersion]) -> None:
        self._each(request, queryset, deployments.deploy, "being deployed")

    def _each(self, request: HttpRequest, rows: QuerySet[ModelVersion], verb: Any, done: str) -> None:
        rows = rows.select_related("model", "workspace", "artifact", "base__model")
        each(request, rows, lambda version: verb(version, by=admin_actor(request, version.workspace)), done)


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__",
        "state",
        "wanted",
        "host",
        "failure",
        "checked_at",
        "workspace",
        "created_by",
        "created_at",
    )
    list_filter = ("state", "wanted", "target", "workspace")
    search_fields = ("version__model__name", "host", "id")
    list_select_related = ("version__model", "workspace")
    actions = ("try_again", "stop")

    @admin.action(description="Try again now")
    def try_again(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        rows = queryset.filter(wanted=True).select_related("version__model", "workspace")
        each(
            request,
            rows,
            lambda row: deployments.deploy(row.version, by=admin_actor(request, row.workspace)),
            "tried again",
        )

    @admin.action(description="Stop")
    def stop(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        rows = queryset.select_related("version__model", "workspace", "engine")
        each(request, rows, lambda row: deployments.stop(row, by=admin_actor(request, row.workspace)), "stopped")


@admin.register(Engine)
class EngineAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state", "base_version", "device", "dtype", "url", "pid", "lease_until", "started_at")
    list_filter = ("state", "host")
    search_fields = ("host", "url", "failure")
    list_select_related = ("base_version__model",)


class ArmInline(ReadOnlyInline):
    model = RouteArm
    fields = ("position", "key", "weight", "deployment")
    readonly_fields = fields


@admin.register(Route)
class RouteAdmin(ReadOnlyAdmin):
    list_display = ("model", "owner", "revision", "workspace", "updated_at")
    list_filter = ("workspace",)
    search_fields = ("model__name", "owner")
    list_select_related = ("model", "workspace")
    inlines = (ArmInline,)


@admin.register(StageChange)
class StageChangeAdmin(ReadOnlyAdmin):
    list_display = ("at", "label", "action", "from_stage", "to_stage", "actor_label", "comment", "workspace")
    list_filter = ("workspace", "action", "to_stage")
    search_fields = ("label", "actor_label", "comment")
    list_select_related = ("workspace",)
    date_hierarchy = "at"
    show_full_result_count = False
