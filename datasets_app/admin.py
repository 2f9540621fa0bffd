"""The operator's desk for data: what is there, in which state, whose, how large."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline

from datasets_app.actions import datasets
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.queries import datasets_with_versions
from project.kernel.admin import ReadOnlyAdmin, admin_actor
from project.kernel.errors import Problem


class VersionInline(TabularInline):  # type: ignore[misc]
    model = DatasetVersion
    fk_name = "dataset"
    fields = readonly_fields = ("number", "state", "row_kind", "rows", "digest", "created_by", "created_at")
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Dataset)
class DatasetAdmin(ReadOnlyAdmin):
    list_display = ("name", "newest", "rows", "version_count", "workspace", "created_by", "updated_at")
    list_filter = ("workspace",)
    search_fields = ("name", "description", "id")
    list_select_related = ("workspace",)
    inlines = (VersionInline,)
    actions = ("delete_with_rows",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:
        return datasets_with_versions().select_related("workspace").order_by("-updated_at", "-id")

    @admin.display(description="newest version")
    def newest(self, dataset: Any) -> str:
        return f"{dataset.newest_list[0].number} ({dataset.newest_list[0].state})" if dataset.newest_list else "–"

    @admin.display(description="rows")
    def rows(self, dataset: Any) -> str:
        return f"{dataset.ready_list[0].rows:,}" if dataset.ready_list else "–"

    @admin.display(description="versions")
    def version_count(self, dataset: Any) -> int:
        return int(dataset.version_count)

    @admin.action(description="Delete with all versions and rows")
    def delete_with_rows(self, request: HttpRequest, queryset: QuerySet[Dataset]) -> None:
        for dataset in Dataset.objects.filter(pk__in=queryset.values("pk")).select_related("workspace"):
            try:
                datasets.delete(dataset, by=admin_actor(request, dataset.workspace))
            except Problem as problem:
                messages.error(request, problem.detail)
            else:
                messages.success(request, f"{dataset.name} is deleted.")


@admin.register(DatasetVersion)
class DatasetVersionAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "state",
        "blocked",
        "row_kind",
        "rows",
        "stored",
        "source_name",
        "workspace",
        "created_by",
        "created_at",
        "page",
    )
    list_filter = ("workspace", "state", "blocked", "row_kind", "format")
    search_fields = ("dataset__name", "digest", "source_name", "id")
    list_select_related = ("workspace", "dataset", "artifact")
    date_hierarchy = "created_at"
    show_full_result_count = False

    @admin.display(description="version", ordering="dataset__name")
    def name(self, version: DatasetVersion) -> str:
        return str(version)

    @admin.display(description="stored")
    def stored(self, version: DatasetVersion) -> str:
        return filesizeformat(version.size)

    @admin.display(description="rows and report")
    def page(self, version: DatasetVersion) -> SafeString:
        return format_html('<a href="{}">open</a>', reverse("dataset-version", args=[version.pk]))
