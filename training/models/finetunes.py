"""What somebody asked a model to learn, and what came of it."""

from typing import Any

from django.db import models
from django.urls import reverse

from project.kernel.models import WorkspaceObject


class FineTune(WorkspaceObject):
    """One run of learning: which base model learns which rows with which settings. Its state is that of its job.

    `config` is the complete job file, with every number settled and every reference resolved to an id.
    """

    job = models.OneToOneField("jobs.Job", on_delete=models.PROTECT, related_name="fine_tune")
    name = models.CharField(max_length=200)
    model_name = models.CharField(max_length=100, help_text="The model that gets the result as a new version")
    base_version = models.ForeignKey(
        "registry.ModelVersion", on_delete=models.PROTECT, related_name="fine_tunes", help_text="What it starts from"
    )
    data_version = models.ForeignKey(
        "datasets_app.DatasetVersion", on_delete=models.PROTECT, related_name="fine_tunes", help_text="What it learns"
    )
    validation_version = models.ForeignKey(
        "datasets_app.DatasetVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    held_out_version = models.ForeignKey(
        "datasets_app.DatasetVersion",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="What the result is evaluated on",
    )
    config = models.JSONField(default=dict)
    result_version = models.OneToOneField(  # a version that nobody uses may be deleted; what was tried stays
        "registry.ModelVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="fine_tune"
    )

    class Meta(WorkspaceObject.Meta):
        verbose_name = "fine-tune"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("job", args=[self.job_id])

    @property
    def method(self) -> str:
        return str(self.config.get("method", {}).get("type", ""))

    @property
    def numbers(self) -> dict[str, Any]:
        """The hyper-parameters, for a glance."""
        return dict(self.config.get("hyperparameters", {}))
