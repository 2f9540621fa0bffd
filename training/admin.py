"""The operator's desk: fine-tunes and evaluations. What happened is read-only; jobs are steered on their own pages."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from project.kernel.admin import ReadOnlyAdmin
from training.models import Evaluation, FineTune


class _OfJob(ReadOnlyAdmin):
    """What both have: a job, its state, who started it, how long it took."""

    @admin.display(description="state", ordering="job__state")
    def state(self, row: Any) -> str:
        return str(row.job.get_state_display())

    @admin.display(description="took")
    def took(self, row: Any) -> str:
        return "–" if row.job.duration is None else f"{row.job.duration.total_seconds():.0f} s"

    @admin.display(description="page")
    def page(self, row: Any) -> SafeString:
        return format_html('<a href="{}">Open</a>', row.get_absolute_url())


@admin.register(FineTune)
class FineTuneAdmin(_OfJob):
    list_display = ("name", "state", "created_by", "took", "method", "base_version", "data_version", "result_version")
    list_filter = ("workspace", "job__state")
    search_fields = ("name", "model_name", "created_by", "base_version__model__name", "data_version__dataset__name")
    readonly_fields = ("page",)
    date_hierarchy = "created_at"
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> "QuerySet[FineTune]":
        rows: QuerySet[FineTune] = super().get_queryset(request)
        return rows.select_related(
            "workspace", "job", "base_version__model", "data_version__dataset", "result_version__model"
        )


@admin.register(Evaluation)
class EvaluationAdmin(_OfJob):
    list_display = ("version", "data_label", "state", "created_by", "took", "rows", "numbers", "learned")
    list_filter = ("workspace", "learned", "job__state")
    search_fields = ("version__model__name", "data_version__dataset__name", "created_by")
    readonly_fields = ("page",)
    date_hierarchy = "created_at"
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Evaluation]":
        rows: QuerySet[Evaluation] = super().get_queryset(request)
        return rows.select_related("workspace", "job", "version__model", "data_version__dataset").defer(
            "data_version__report"
        )

    @admin.display(description="scores")
    def numbers(self, row: Evaluation) -> str:
        return ", ".join(f"{score['metric']} {score['value']:.3g}" for score in row.scores) or "–"
