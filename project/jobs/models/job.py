"""A job, and each try at it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from project.contracts.events import FailureClass
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES
from project.kernel.models import Artifact, WorkspaceObject


class JobState(models.TextChoices):
    DRAFT = "draft", "Draft"
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    PAUSING = "pausing", "Pausing"
    PAUSED = "paused", "Paused"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class Queue(models.TextChoices):
    """`gpu` is device work (on a host without a GPU its device is the CPU), `cpu` the rest."""

    GPU = "gpu", "Device"
    CPU = "cpu", "CPU"


TERMINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
ACTIVE = (JobState.RUNNING, JobState.PAUSING)
_FAILURES = [(failure.value, failure.value.replace("_", " ").capitalize()) for failure in FailureClass]


class Job(WorkspaceObject):
    """One long operation of any app. This row is the truth about it; queue messages and sockets are hints.

        draft ─► queued ─► running ⇄ pausing ─► paused ─► queued
                   ▲          │
                   └─ again ──┤                    any but the three terminal ones ─► cancelled
                              └─► succeeded | failed | cancelled      (terminal: the database lets nobody leave them)

    `attempt` counts the tries and only grows: it is the fencing token. Whoever works on a job writes only
    `WHERE attempt = mine AND lease_owner = me` (see `project.jobs.ownership`).
    """

    recipe = models.CharField(max_length=60, db_index=True)
    title = models.CharField(max_length=200)
    params = models.JSONField(default=dict, help_text="validated parameters of the recipe")
    inputs = models.JSONField(default=dict, help_text="{name: {artifact: id} | {path: …}}")
    subject_kind = models.CharField(max_length=60, blank=True, help_text="what it works for: the kind of object")
    subject_id = models.CharField(max_length=64, blank=True)
    retry_of = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="retries")
    start_checkpoint = models.ForeignKey(
        "jobs.Checkpoint",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="starts",
        help_text="another job's, that this one starts from",
    )
    creator_identity = models.CharField(max_length=64, blank=True, editable=False)
    creator_user_id = models.BigIntegerField(null=True, blank=True, editable=False)

    state = models.CharField(max_length=10, choices=JobState, default=JobState.DRAFT)
    queue = models.CharField(max_length=10, choices=Queue)
    priority = models.SmallIntegerField(default=0, help_text="higher starts first")
    queued_at = models.DateTimeField(null=True, blank=True)
    run_after = models.DateTimeField(null=True, blank=True, help_text="not before")
    started_at = models.DateTimeField(null=True, blank=True, help_text="when its first try began")
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=200, blank=True)
    pause_requested_at = models.DateTimeField(null=True, blank=True)
    pause_requested_by = models.CharField(max_length=200, blank=True)
    time_limit = models.PositiveIntegerField(null=True, blank=True, help_text="seconds of work over all tries")
    memory_limit = models.BigIntegerField(null=True, blank=True, help_text="bytes of the host's memory")

    attempt = models.PositiveIntegerField(default=0, help_text="0 until a worker first took it")
    lease_owner = models.CharField(max_length=200, blank=True, help_text="the worker that may write")
    lease_until = models.DateTimeField(null=True, blank=True, help_text="by the database's clock")
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    suspected_at = models.DateTimeField(
        null=True, blank=True, help_text="when a sweep first found its lease expired; a second one acts"
    )
    losses = models.PositiveIntegerField(default=0, help_text="tries lost to infrastructure")
    worked = models.FloatField(default=0.0, help_text="seconds that its finished tries took")
    adjusted = models.JSONField(default=dict, help_text="parameters that were changed so that it fits its device")

    step = models.PositiveBigIntegerField(default=0)
    total = models.PositiveBigIntegerField(default=0, help_text="0: not known")
    unit = models.CharField(max_length=30, blank=True)
    phase = models.CharField(max_length=100, blank=True)
    epoch = models.FloatField(null=True, blank=True)
    rate = models.FloatField(null=True, blank=True, help_text="steps per second, lately")
    progress_at = models.DateTimeField(null=True, blank=True)
    latest = models.JSONField(default=dict, help_text="{metric: its newest value}")
    last_seq = models.PositiveBigIntegerField(default=0, help_text="number of the newest event")

    failure_class = models.CharField(max_length=20, blank=True, choices=_FAILURES)
    failure_message = models.TextField(blank=True)
    failure_hint = models.TextField(blank=True)
    failure_field = models.CharField(max_length=200, blank=True)
    failure_lines = models.JSONField(default=list, help_text="the last lines of the log, as evidence")
    result = models.JSONField(default=dict)
    artifact = models.ForeignKey(Artifact, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")

    class Meta(WorkspaceObject.Meta):
        indexes = [
            models.Index(fields=["state", "queue", "-priority", "queued_at"], name="job_next"),
            models.Index(fields=["workspace", "state", "-id"], name="job_list"),
            models.Index(fields=["lease_owner", "state"], name="job_owner"),
            models.Index(fields=["subject_kind", "subject_id"], name="job_subject"),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(state__in=JobState.values), name="job_state_known"),
            models.CheckConstraint(
                condition=~models.Q(state__in=[state.value for state in TERMINAL])
                | models.Q(finished_at__isnull=False),
                name="job_finished_has_time",
            ),
        ]

    def __str__(self) -> str:
        return self.title or f"{self.recipe} {str(self.pk)[-6:]}"

    def get_absolute_url(self) -> str:
        return reverse("job", args=[self.pk])

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def can_start(self) -> bool:
        return self.state == JobState.DRAFT

    @property
    def can_cancel(self) -> bool:
        return not self.is_terminal and self.cancel_requested_at is None

    @property
    def can_pause(self) -> bool:
        return self.state in (JobState.QUEUED, JobState.RUNNING) and self.cancel_requested_at is None

    @property
    def can_resume(self) -> bool:
        return self.state in (JobState.PAUSED, JobState.PAUSING) and self.cancel_requested_at is None

    @property
    def can_retry(self) -> bool:
        return self.is_terminal

    @property
    def is_cancelling(self) -> bool:
        return self.cancel_requested_at is not None and not self.is_terminal

    @property
    def effective_params(self) -> dict[str, Any]:
        """What the engine gets: what was asked for, with what was adjusted since."""
        return {**self.params, **self.adjusted}

    @property
    def percent(self) -> float | None:
        """0 to 100; None while the total is not known."""
        if self.state == JobState.SUCCEEDED:
            return 100.0
        return min(100.0, 100.0 * self.step / self.total) if self.total else None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left in the present phase, from the pace of the last half minute; None when there is no pace yet."""
        if not (self.is_active and self.rate and self.total and self.progress_at):
            return None
        since = (timezone.now() - self.progress_at).total_seconds()
        return max(0.0, (self.total - self.step) / self.rate - since)

    @property
    def duration(self) -> timedelta | None:
        """From the first try's beginning until the end, or until now."""
        return (self.finished_at or timezone.now()) - self.started_at if self.started_at else None

    @property
    def waited(self) -> timedelta | None:
        """How long it stood in the queue before its first try, or stands until now."""
        return (self.started_at or self.finished_at or timezone.now()) - self.queued_at if self.queued_at else None

    @property
    def recipe_label(self) -> str:
        try:
            return RECIPES.get(self.recipe).label
        except UnknownPlugin:  # an extension that was taken away
            return self.recipe

    def ahead(self) -> "models.QuerySet[Job]":
        """What waits before it in its queue, over all workspaces."""
        # Compared inside the database: SQLite keeps times as text, and not all with the same number of digits.
        mine = models.Subquery(Job.objects.filter(pk=self.pk).values("queued_at"))
        earlier = models.Q(queued_at__lt=mine) | models.Q(queued_at=mine, pk__lt=self.pk)
        before = models.Q(priority__gt=self.priority) | models.Q(earlier, priority=self.priority)
        return Job.objects.filter(before, state=JobState.QUEUED, queue=self.queue).order_by()

    def position(self) -> int | None:
        """Place in its queue, 1 = next; None unless it waits."""
        if self.state != JobState.QUEUED or self.queued_at is None:
            return None
        return self.ahead().count() + 1

    def run_folder(self, attempt: int) -> Path:
        """Where one try reads and writes on its host."""
        return Path(settings.RUNS_PATH) / str(self.pk) / str(attempt)


class Outcome(models.TextChoices):
    """How a try ended. Lost ones (worker or host died) and drained ones (deploy) are followed by another try."""

    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"
    PAUSED = "paused", "Paused"
    LOST = "lost", "Lost"
    DRAINED = "drained", "Drained"


class JobAttempt(models.Model):
    """One try at a job: on which host and device, by which process, and how that ended."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    host = models.CharField(max_length=200)
    owner = models.CharField(max_length=200, help_text="the worker that supervised it")
    device = models.CharField(max_length=20, default="cpu")
    pid = models.PositiveIntegerField(null=True, blank=True, help_text="of the engine; also its process group")
    process_created = models.FloatField(null=True, blank=True, help_text="Unix time; with the pid it names the process")
    engine_gone = models.BooleanField(default=False, help_text="its host saw that no process of it is left")
    versions = models.JSONField(default=dict, help_text="{library: version} that the engine found")
    lines = models.PositiveBigIntegerField(default=0, help_text="lines of events.jsonl taken into the database")
    line_bytes = models.PositiveBigIntegerField(default=0, help_text="where the next line begins")
    log_bytes = models.PositiveBigIntegerField(default=0)
    log_tail = models.TextField(blank=True, help_text="the last part of log.txt, for readers on other hosts")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.RUNNING)
    failure_class = models.CharField(max_length=20, blank=True, choices=_FAILURES)
    message = models.TextField(blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    signal = models.PositiveSmallIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["-started_at"]
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="one_attempt_per_number")]
        indexes = [
            models.Index(fields=["host"], condition=models.Q(engine_gone=False), name="attempt_with_engine"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.job}"

    @property
    def duration(self) -> timedelta:
        return (self.finished_at or timezone.now()) - self.started_at

    def run_folder(self) -> Path:
        return Path(settings.RUNS_PATH) / str(self.job_id) / str(self.number)


def as_time(seconds: float) -> datetime:
    """An engine's Unix time as an aware one."""
    return datetime.fromtimestamp(seconds, tz=timezone.get_default_timezone())
