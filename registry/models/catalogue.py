"""Models, their versions, the stages these went through, and how well they did."""

from collections.abc import Collection
from uuid import UUID

from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils import timezone

from project.kernel.errors import Conflict
from project.kernel.models import WorkspaceObject


class RegisteredModel(WorkspaceObject):
    """A name under which versions are kept. Base models are ordinary models, imported instead of trained."""

    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    tags = models.JSONField(default=list, blank=True, help_text="A list of words")
    last_number = models.PositiveIntegerField(default=0, editable=False, help_text="Numbers are never used twice")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta(WorkspaceObject.Meta):
        verbose_name = "model"
        constraints = [models.UniqueConstraint(fields=["workspace", "name"], name="one_model_per_name")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("model", args=[self.pk])

    @classmethod
    def locked(cls, key: UUID) -> "RegisteredModel":
        """The model, with its row held until the transaction ends.

        Stages, deployments and routes of one model change one after the other: whoever changes one takes this first.
        """
        return cls.objects.select_for_update(no_key=True).get(pk=key)

    def next_number(self) -> int:
        """Take the next version number. Call inside the transaction that writes the version."""
        RegisteredModel.objects.filter(pk=self.pk).update(last_number=F("last_number") + 1)
        self.refresh_from_db(fields=["last_number"])
        return self.last_number

    def in_production(self) -> "ModelVersion | None":
        """The one version that new deployments use."""
        return self.versions.filter(stage=Stage.PRODUCTION).first()


class Stage(models.TextChoices):
    DRAFT = "draft", "Draft"
    STAGING = "staging", "Staging"
    PRODUCTION = "production", "Production"
    ARCHIVED = "archived", "Archived"


class VersionKind(models.TextChoices):
    FULL = "full", "Full model"
    ADAPTER = "adapter", "Adapter"


class ModelVersion(WorkspaceObject):
    """One immutable set of weights under a model's name, and the stage people have given it.

        register ─► draft ──submit──► staging ──promote──► production
                      │                 ▲  ▲                   │
                      │                 │  └─another promoted──┤
                      └────promote──────┼─────────────────────►│
                      any ──archive──► archived ◄──archive─────┘   (archived ──submit──► staging)

    At most one version of a model is in production. The one that another replaces goes back to staging, so that
    promoting it again is the way back; archiving is done by people only. Weights, facts and config never change.
    """

    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    stage = models.CharField(max_length=10, choices=Stage, default=Stage.DRAFT, editable=False, db_index=True)
    stage_changed_at = models.DateTimeField(default=timezone.now, editable=False)
    kind = models.CharField(max_length=10, choices=VersionKind, editable=False)
    base = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="adapters", editable=False
    )
    artifact = models.ForeignKey("kernel.Artifact", on_delete=models.PROTECT, related_name="+", editable=False)
    facts = models.JSONField(default=dict, editable=False, help_text="Read from the weights: layers, parameters, …")
    metrics = models.JSONField(default=dict, editable=False, help_text="The last numbers of the run that made it")
    origin = models.CharField(max_length=20, editable=False, help_text="How it came to be: import, training")
    source = models.CharField(max_length=300, blank=True, editable=False, help_text="Where an import came from")
    job_id = models.UUIDField(null=True, blank=True, editable=False, db_index=True)
    data_digest = models.CharField(max_length=64, blank=True, editable=False, help_text="The rows it learned")
    config = models.JSONField(default=dict, editable=False, help_text="The configuration it was made with")
    notes = models.TextField(blank=True)

    class Meta(WorkspaceObject.Meta):
        verbose_name = "model version"
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="one_version_per_number"),
            models.UniqueConstraint(
                fields=["model"], condition=Q(stage=Stage.PRODUCTION), name="one_version_in_production"
            ),
            models.CheckConstraint(
                condition=Q(kind=VersionKind.ADAPTER, base__isnull=False) | Q(kind=VersionKind.FULL, base__isnull=True),
                name="an_adapter_has_a_base",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model.name}:{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("model-version", args=[self.pk])

    @property
    def reference(self) -> str:
        """How people name it: `support-intents:3`."""
        return str(self)

    @property
    def is_adapter(self) -> bool:
        return self.kind == VersionKind.ADAPTER

    @property
    def foundation(self) -> "ModelVersion":
        """The full model whose weights an engine loads for this version: its base, or itself."""
        return self.base or self

    def move(self, to: Stage, *, start: Collection[Stage]) -> Stage:
        """Go to stage `to` if the version is in one of `start` at this moment; returns the stage it left.

        Raises Conflict when somebody else moved it first.
        """
        left = Stage(self.stage)
        if left not in start or not ModelVersion.objects.filter(pk=self.pk, stage=left).update(
            stage=to, stage_changed_at=timezone.now()
        ):
            self.refresh_from_db(fields=["stage"])
            wanted = " or ".join(start)
            raise Conflict(f"{self} is in stage '{self.stage}'; only from {wanted} can it go to '{to}'.")
        self.refresh_from_db(fields=["stage", "stage_changed_at"])
        return left

    def was_ever_in_production(self) -> bool:
        return StageChange.objects.filter(version_id=self.pk, to_stage=Stage.PRODUCTION).exists()


class StageChange(models.Model):
    """One step of a version between stages: who, when, why, what the gates saw. The database refuses to change a row.

    It has no database constraint on model and version, and repeats their label: the record outlives what it is about.
    """

    id = models.BigAutoField(primary_key=True)  # changes of one model are made one after the other: this is their order
    workspace = models.ForeignKey("kernel.Workspace", on_delete=models.PROTECT, related_name="+")
    model = models.ForeignKey(
        RegisteredModel, on_delete=models.DO_NOTHING, db_constraint=False, related_name="stage_changes"
    )
    version = models.ForeignKey(
        ModelVersion, on_delete=models.DO_NOTHING, db_constraint=False, related_name="stage_changes"
    )
    label = models.CharField(max_length=120, help_text="name:number, as it was then")
    action = models.CharField(max_length=20, help_text="registered, submitted, approved, promoted, replaced, archived")
    from_stage = models.CharField(max_length=10, blank=True)
    to_stage = models.CharField(max_length=10)
    at = models.DateTimeField(default=timezone.now)
    actor_kind = models.CharField(max_length=10)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_label = models.CharField(max_length=200)
    comment = models.TextField(blank=True)
    gates = models.JSONField(default=list, help_text="[{gate, passed, said}]: what the gates saw")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["model", "at"], name="stage_change_of_model"),
            models.Index(fields=["version"], name="stage_change_of_version"),
        ]

    def __str__(self) -> str:
        return f"{self.label} {self.action} by {self.actor_label}"


class Score(WorkspaceObject):
    """How a version did on some rows, by one metric. The data set is named by its digest, so a score outlives it.

    `low` and `high` are the 95 % confidence interval of `value` when it has one, `n` the number of rows.
    """

    class Better(models.TextChoices):
        HIGHER = "higher", "Higher is better"
        LOWER = "lower", "Lower is better"

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="scores")
    data_digest = models.CharField(max_length=64)
    data_label = models.CharField(max_length=200, blank=True, help_text="What the data was called then")
    metric = models.CharField(max_length=60)
    value = models.FloatField()
    low = models.FloatField(null=True, blank=True)
    high = models.FloatField(null=True, blank=True)
    n = models.PositiveIntegerField()
    unit = models.CharField(max_length=20, blank=True, help_text="seconds, tokens/s; empty for fractions and counts")
    better = models.CharField(max_length=6, choices=Better, default=Better.HIGHER)
    job_id = models.UUIDField(null=True, blank=True, db_index=True)
    evaluated_at = models.DateTimeField(default=timezone.now)

    class Meta(WorkspaceObject.Meta):
        indexes = [
            models.Index(fields=["version", "data_digest", "metric", "-evaluated_at"], name="score_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} on {self.data_label or self.data_digest[:12]}"

    @property
    def is_share(self) -> bool:
        """A number from 0 to 1 where 1 is perfect: accuracy, exact match, F1."""
        return not self.unit and self.better == self.Better.HIGHER and 0 <= self.value <= 1

    @property
    def higher_is_better(self) -> bool:
        return self.better == self.Better.HIGHER
