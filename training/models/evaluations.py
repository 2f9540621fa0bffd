"""How a version answers the rows of a data set: the numbers, and every answer."""

import hashlib
from collections.abc import Mapping
from typing import Any

from django.db import models
from django.urls import reverse

from project.kernel.models import WorkspaceObject


class Evaluation(WorkspaceObject):
    """One version measured on one data set, or on the part of it that training held back. Its state is its job's.

    `scores` are [{metric, value, low, high, n, …}] as the engine found them; the registry keeps them too, by the
    digest of the rows, so that they outlive the data. `low` and `high` bound the 95 % confidence interval.
    """

    job = models.OneToOneField("jobs.Job", on_delete=models.PROTECT, related_name="evaluation")
    version = models.ForeignKey("registry.ModelVersion", on_delete=models.CASCADE, related_name="evaluations")
    data_version = models.ForeignKey(
        "datasets_app.DatasetVersion", on_delete=models.PROTECT, related_name="evaluations"
    )
    split = models.JSONField(null=True, blank=True, help_text="{share, seed}: only what training held back")
    metrics = models.JSONField(default=list)
    limit = models.PositiveIntegerField(null=True, blank=True, help_text="at most so many rows")
    learned = models.BooleanField(default=False, help_text="the version learned these very rows: the scores flatter it")
    rows = models.PositiveIntegerField(null=True, blank=True, help_text="rows that were answered")
    scores = models.JSONField(default=list)
    answers = models.ForeignKey(
        "kernel.Artifact", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )

    class Meta(WorkspaceObject.Meta):
        indexes = [models.Index(fields=["version", "data_version"], name="evaluation_of")]

    def __str__(self) -> str:
        return f"{self.version} on {self.data_label}"

    @property
    def data_label(self) -> str:
        """What the rows are called: `support:2`, or `support:2 (validation 10 %)`."""
        return f"{self.data_version} (validation {self.split['share']:.3g})" if self.split else str(self.data_version)

    @property
    def rows_digest(self) -> str:
        """What names the rows that were asked: the data set's digest, or one of its own for a part of it."""
        digest: str = self.data_version.digest
        if not self.split:
            return digest
        part = f"{digest}:validation:{self.split['share']}:{self.split['seed']}"
        return hashlib.sha256(part.encode()).hexdigest()

    @property
    def state(self) -> str:
        return str(self.job.state)

    @property
    def warning(self) -> str:
        """What must be said beside the numbers; empty when nothing must."""
        if not self.learned:
            return ""
        return (
            f"{self.version} learned these very rows. The scores say how well it remembers, not how good it is: "
            "evaluate it on rows that it has not seen."
        )

    def get_absolute_url(self) -> str:
        return reverse("evaluation", args=[self.pk])

    @property
    def score(self) -> dict[str, dict[str, Any]]:
        """{metric: its numbers}."""
        return {score["metric"]: score for score in self.scores}

    @property
    def scores_for_people(self) -> list[dict[str, Any]]:
        """The scores with what drawing them needs: `is_share`, and `maximum`, where the scale ends."""
        return [for_people(score) for score in self.scores]


def for_people(score: Mapping[str, Any]) -> dict[str, Any]:
    """One score, and whether it is a share of 1 (drawn on a scale that ends there)."""
    high = max(score["value"], score.get("high") or 0.0)
    is_share = score.get("better") == "higher" and high <= 1.0
    return {**score, "is_share": is_share, "maximum": 1.0 if is_share else high * 1.1 or 1.0}
