"""What a job saved on its way."""

from pathlib import Path

from django.conf import settings
from django.db import models

from project.jobs.models.job import Job
from project.kernel.models import Artifact


class Checkpoint(models.Model):
    """A committed checkpoint: on the host that wrote it, in the artifact store when that is shared, or both.

    The row is written with the numbers that came before it, so whoever goes on from it leaves no hole in the charts.
    `deleted_at` means: the policy (best, last N, age) has let go of it; its files are gone, or are being removed.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="checkpoints")
    attempt = models.PositiveIntegerField()
    step = models.PositiveBigIntegerField()
    at = models.DateTimeField()
    host = models.CharField(max_length=200)
    path = models.CharField(max_length=500, help_text="below the run folder of its attempt")
    metrics = models.JSONField(default=dict)
    size = models.BigIntegerField(default=0, help_text="bytes; 0: not known")
    digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of its manifest")
    damage = models.TextField(blank=True, help_text="why it can't be used")
    artifact = models.ForeignKey(Artifact, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["job", "-step", "-attempt"]
        constraints = [models.UniqueConstraint(fields=["job", "attempt", "step"], name="one_checkpoint_per_step")]

    def __str__(self) -> str:
        return f"checkpoint at step {self.step}"

    @property
    def folder(self) -> Path:
        """Where it is on its own host."""
        return Path(settings.RUNS_PATH) / str(self.job_id) / str(self.attempt) / self.path

    @property
    def is_here(self) -> bool:
        return self.host == settings.HOST_NAME and self.folder.is_dir()

    @property
    def is_usable(self) -> bool:
        """Can this host start from it, as far as one knows without reading it?"""
        return not self.deleted_at and not self.damage and (self.artifact_id is not None or self.is_here)

    @property
    def state(self) -> str:
        """'damaged', 'gone', 'here', 'stored' (in the artifact store), or 'elsewhere' (only on another host)."""
        if self.damage:
            return "damaged"
        if self.deleted_at:
            return "gone"
        if self.is_here:
            return "here"
        if self.artifact_id is not None:
            return "stored"
        return "gone" if self.host == settings.HOST_NAME else "elsewhere"
