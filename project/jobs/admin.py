"""The operator's desk: what runs where, for whom, how long, and how it ended. Buttons call actions."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import TabularInline
from unfold.decorators import display

from project.jobs.actions import jobs
from project.jobs.models import DeviceSlot, Job, JobAttempt, JobEvent, Worker
from project.kernel.access import Actor
from project.kernel.admin import ReadOnlyAdmin, admin_actor
from project.kernel.errors import Problem

_LOOKS = {"succeeded": "success", "failed": "danger", "running": "info", "queued": "warning", "paused": "warning"}


class AttemptInline(TabularInline):  # type: ignore[misc]
    model = JobAttempt
    fields = (
        "number",
        "outcome",
        "host",
        "device",
        "pid",
        "started_at",
        "finished_at",
        "exit_code",
        "signal",
        "message",
    )
    readonly_fields = fields
    extra = 0
    can_delete = False
    ordering = ("-number",)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("name", "shown_state", "progress", "recipe", "created_by", "took", "workspace", "created_at")
    list_filter = ("state", "queue", "recipe", "failure_class", "workspace")
    search_fields = ("title", "created_by", "id", "lease_owner")
    list_select_related = ("workspace",)
    date_hierarchy = "created_at"
    show_full_result_count = False
    actions = ("pause", "resume", "cancel", "requeue")
    inlines = (AttemptInline,)
    readonly_fields = ("page",)
    fieldsets = (
        (None, {"fields": ("title", "state", "recipe", "workspace", "created_by", "page")}),
        ("Progress", {"fields": ("phase", "step", "total", "unit", "latest", "result", "artifact")}),
        (
            "Lease",
            {
                "fields": (
                    *("queue", "priority", "attempt", "lease_owner", "lease_until", "heartbeat_at", "suspected_at"),
                    *("losses", "run_after", "cancel_requested_at", "cancel_requested_by"),
                    *("pause_requested_at", "pause_requested_by", "time_limit", "memory_limit", "worked"),
                )
            },
        ),
        ("Failure", {"fields": ("failure_class", "failure_message", "failure_hint", "failure_field", "failure_lines")}),
        ("Asked for", {"fields": ("params", "adjusted", "inputs", "subject_kind", "subject_id", "retry_of")}),
        ("Times", {"fields": ("created_at", "queued_at", "started_at", "finished_at")}),
    )

    @display(description="Job", ordering="title")  # type: ignore[untyped-decorator]
    def name(self, job: Job) -> str:
        return job.title

    @display(description="State", ordering="state", label=_LOOKS)  # type: ignore[untyped-decorator]
    def shown_state(self, job: Job) -> str:
        return job.state

    @display(description="Progress")  # type: ignore[untyped-decorator]
    def progress(self, job: Job) -> str:
        return f"{job.percent:.0f} %" if job.percent is not None else "–"

    @display(description="Took")  # type: ignore[untyped-decorator]
    def took(self, job: Job) -> str:
        return str(job.duration).partition(".")[0] if job.duration is not None else "–"

    @display(description="Page")  # type: ignore[untyped-decorator]
    def page(self, job: Job) -> str:
        return format_html('<a href="{}">Live page</a>', reverse("job", args=[job.pk]))

    @admin.action(description="Pause")
    def pause(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, lambda job, by: jobs.pause(job, by=by), "will pause")

    @admin.action(description="Resume")
    def resume(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, lambda job, by: jobs.resume(job, by=by), "go on")

    @admin.action(description="Cancel")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, lambda job, by: jobs.cancel(job, by=by), "will end")

    @admin.action(description="Queue again as new jobs")
    def requeue(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, lambda job, by: jobs.retry(job, by=by), "queued again")

    def _each(self, request: HttpRequest, rows: QuerySet[Job], call: Callable[[Job, Actor], Any], done: str) -> None:
        good = 0
        for job in rows.select_related("workspace"):
            try:
                call(job, admin_actor(request, job.workspace))
                good += 1
            except Problem as problem:
                messages.error(request, f"{job}: {problem.detail}")
        if good:
            messages.success(request, f"{good} {done}.")


@admin.register(JobAttempt)
class JobAttemptAdmin(ReadOnlyAdmin):
    list_display = ("job", "number", "outcome", "host", "device", "pid", "started_at", "finished_at", "exit_code")
    list_filter = ("outcome", "host", "failure_class")
    search_fields = ("job__title", "host", "owner")
    list_select_related = ("job",)
    show_full_result_count = False
    exclude = ("log_tail",)


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    list_display = ("job", "seq", "type", "attempt", "at")
    list_filter = ("type",)
    search_fields = ("=job__id",)
    list_select_related = ("job",)
    show_full_result_count = False
    ordering = ("-id",)


@admin.register(DeviceSlot)
class DeviceSlotAdmin(ReadOnlyAdmin):
    list_display = ("host", "queue", "number", "device", "job", "holder", "bytes", "taken_at")
    list_filter = ("host", "queue")
    list_select_related = ("job",)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("host", "pid", "queues", "draining", "started_at", "heartbeat_at")
    list_filter = ("host",)
