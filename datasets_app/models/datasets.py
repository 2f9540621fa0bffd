"""A data set is a name; its versions hold the rows and never change."""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.urls import reverse

from project.contracts.rows import RowKind
from project.kernel.models import Artifact, WorkspaceObject


class Dataset(WorkspaceObject):
    """A name under which versions of rows are kept."""

    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    last_number = models.PositiveIntegerField(default=0, editable=False, help_text="Numbers are never used twice")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(WorkspaceObject.Meta):
        verbose_name = "data set"
        constraints = [models.UniqueConstraint(fields=["workspace", "name"], name="one_dataset_per_name")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("dataset", args=[self.pk])

    def next_number(self) -> int:
        """Take the next version number. Call inside the transaction that writes the version."""
        Dataset.objects.filter(pk=self.pk).update(last_number=F("last_number") + 1)
        self.refresh_from_db(fields=["last_number"])
        return self.last_number


class VersionState(models.TextChoices):
    IMPORTING = "importing", "Importing"
    READY = "ready", "Ready"
    FAILED = "failed", "Failed"


class DatasetVersion(WorkspaceObject):
    """Rows in their order, with a digest that is the same for the same rows from any file.

    importing ──► ready    (frozen: nothing of it changes any more)
        ▲ └─────► failed   (`failure` says why; no rows are kept)
        └── retry ──┘
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=VersionState, default=VersionState.IMPORTING)
    failure = models.TextField(blank=True, help_text="why there are no rows, and what to do")

    row_kind = models.CharField(max_length=20, blank=True, choices=[(kind.value, kind.value) for kind in RowKind])
    rows = models.PositiveBigIntegerField(default=0)
    digest = models.CharField(max_length=64, blank=True, db_index=True, help_text="SHA-256 over the rows")
    report = models.JSONField(default=dict, help_text="what the checks found")
    artifact = models.ForeignKey(Artifact, null=True, blank=True, on_delete=models.PROTECT, related_name="+")

    operation = models.CharField(max_length=30, default="import", help_text="what it was made by")
    steps = models.JSONField(default=list, blank=True, help_text="the preparation that made it from its parent")
    part = models.CharField(max_length=40, blank=True, help_text="which part of a split it is")
    meta_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 over the other columns")
    synthetic_rows = models.PositiveBigIntegerField(default=0, help_text="rows a model or a machine wrote")
    source_uri = models.CharField(max_length=1000, blank=True, help_text="where it was fetched from")
    blocked = models.BooleanField(default=False, help_text="fatal findings: it can't be trained on")
    lifted_by = models.CharField(max_length=200, blank=True, help_text="who lifted the block")
    lifted_reason = models.TextField(blank=True)
    lifted_at = models.DateTimeField(null=True, blank=True)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.RESTRICT, related_name="children")
    source_name = models.CharField(max_length=255, blank=True, help_text="the file's name where it came from")
    source_bytes = models.BigIntegerField(default=0)
    source_sha256 = models.CharField(max_length=64, blank=True)
    format = models.CharField(max_length=60, blank=True, help_text="the format the file had")
    columns = models.JSONField(default=dict, blank=True, help_text="part -> column, as the user said")
    skip_bad_lines = models.BooleanField(default=False)
    upload = models.ForeignKey(
        Artifact,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="the file, until it is imported",
    )
    job_id = models.UUIDField(null=True, blank=True, db_index=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta(WorkspaceObject.Meta):
        verbose_name = "data set version"
        constraints = [
            models.UniqueConstraint(fields=["dataset", "number"], name="one_dataset_version_per_number"),
            models.CheckConstraint(
                condition=~Q(state="ready") | (Q(artifact__isnull=False) & ~Q(digest="") & Q(rows__gt=0)),
                name="ready_version_has_rows",
            ),
        ]
        indexes = [models.Index(fields=["dataset", "state", "-number"], name="dataset_newest")]

    def __str__(self) -> str:
        return f"{self.dataset.name}:{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("dataset-version", args=[self.pk])

    @property
    def is_ready(self) -> bool:
        return self.state == VersionState.READY

    @property
    def is_importing(self) -> bool:
        return self.state == VersionState.IMPORTING

    @property
    def size(self) -> int:
        """Bytes of the stored rows and report."""
        return self.artifact.size if self.artifact else 0

    @property
    def summary(self) -> dict[str, Any]:
        """The report's counts; empty before it is ready."""
        return dict(self.report.get("summary", {}))

    def become_ready(self, *, artifact: Artifact, report: dict[str, Any], result: dict[str, Any], at: Any) -> None:
        """The rows are stored. Only an importing version becomes ready; afterwards nothing changes."""
        self.state, self.failure, self.finished_at = VersionState.READY, "", at
        self.artifact, self.report = artifact, report
        self.rows, self.row_kind, self.digest = result["rows"], result["row_kind"], result["digest"]
        self.meta_digest, self.synthetic_rows = result.get("meta_digest", ""), result.get("synthetic_rows", 0)
        self.format = result["format"]
        self.blocked = bool(report.get("summary", {}).get("error"))
        self.save()

    def become_failed(self, why: str, *, at: Any) -> None:
        self.state, self.failure, self.finished_at = VersionState.FAILED, why, at
        self.save(update_fields=["state", "failure", "finished_at"])
