"""The operator's view of answers, votes and tests. What happened is read-only; buttons call the actions."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import TabularInline

from abtests.actions import abtests
from abtests.models import ABTest, Answer, Feedback, FeedbackEdit, Variant
from project.kernel.admin import ReadOnlyAdmin, admin_actor
from project.kernel.errors import Problem


class ReadOnlyInline(TabularInline):  # type: ignore[misc]
    extra = 0
    can_delete = False
    show_change_link = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class FeedbackInline(ReadOnlyInline):
    model = Feedback
    fields = ("rating", "thumb", "feedback_type", "comment", "corrected_text", "created_by", "updated_at")
    readonly_fields = fields
    ordering = ("-updated_at",)


@admin.register(Answer)
class AnswerAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "version",
        "question",
        "test",
        "arm",
        "source",
        "token_label",
        "completion_tokens",
        "took",
        "error",
        "workspace",
    )
    list_filter = ("workspace", "source", ("error", admin.EmptyFieldListFilter))
    search_fields = ("id__exact", "token_label")
    list_select_related = ("version__model", "test", "workspace")
    ordering = ("-created_at", "-id")
    show_full_result_count = False  # counting a million rows twice helps nobody
    inlines = (FeedbackInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Answer]:
        rows: QuerySet[Answer] = super().get_queryset(request)
        return rows.defer("text", "params")

    @admin.display(description="Question")
    def question(self, answer: Answer) -> str:
        return answer.prompt[:80]

    @admin.display(description="Took", ordering="latency_ms")
    def took(self, answer: Answer) -> str:
        return f"{answer.latency_ms:,.0f} ms"


class EditInline(ReadOnlyInline):
    model = FeedbackEdit
    fields = ("said_at", "rating", "thumb", "feedback_type", "comment", "corrected_text", "replaced_at", "replaced_by")
    readonly_fields = fields
    verbose_name_plural = "said before"


@admin.register(Feedback)
class FeedbackAdmin(ReadOnlyAdmin):
    list_display = (
        "created_at",
        "rating",
        "thumb",
        "feedback_type",
        "comment_start",
        "about",
        "created_by",
        "workspace",
    )
    list_filter = ("workspace", "rating", "thumb", "source")
    search_fields = ("comment", "corrected_text", "answer__id__exact")
    list_select_related = ("answer__version__model", "workspace")
    show_full_result_count = False
    inlines = (EditInline,)

    @admin.display(description="Comment")
    def comment_start(self, feedback: Feedback) -> str:
        return feedback.comment[:80]

    @admin.display(description="Version")
    def about(self, feedback: Feedback) -> str:
        return str(feedback.answer.version)


class VariantInline(ReadOnlyInline):
    model = Variant
    fields = ("key", "version", "weight", "deployment")
    readonly_fields = fields


@admin.register(ABTest)
class ABTestAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "model", "split", "winner", "started_at", "created_by", "workspace", "results")
    list_filter = ("workspace", "state")
    search_fields = ("name", "model__name")
    list_select_related = ("model", "winner__version__model", "workspace")
    inlines = (VariantInline,)
    actions = ("start", "pause", "stop")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ABTest]:
        rows: QuerySet[ABTest] = super().get_queryset(request)
        return rows.prefetch_related("variants__version__model")

    @admin.display(description="Split")
    def split(self, test: ABTest) -> str:
        return ", ".join(f"{variant.version} {variant.weight}" for variant in test.variants.all())

    @admin.display(description="Results")
    def results(self, test: ABTest) -> str:
        return format_html('<a href="{}">Results</a>', reverse("abtest", args=[test.pk]))

    @admin.action(description="Start or go on")
    def start(self, request: HttpRequest, queryset: QuerySet[ABTest]) -> None:
        self._each(request, queryset, abtests.start, "is running")

    @admin.action(description="Pause")
    def pause(self, request: HttpRequest, queryset: QuerySet[ABTest]) -> None:
        self._each(request, queryset, abtests.pause, "is paused")

    @admin.action(description="Stop, without a winner")
    def stop(self, request: HttpRequest, queryset: QuerySet[ABTest]) -> None:
        self._each(request, queryset, abtests.stop, "is stopped")

    def _each(self, request: HttpRequest, tests: QuerySet[ABTest], act: Callable[..., ABTest], done: str) -> None:
        for test in tests.select_related("model", "workspace"):
            try:
                act(test, by=admin_actor(request, test.workspace))
            except Problem as problem:
                messages.error(request, problem.detail)
            else:
                messages.success(request, f"{test} {done}.")
