"""One version against another, on real traffic."""

import secrets
from collections.abc import Collection
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from project.kernel.errors import Conflict
from project.kernel.models import WorkspaceObject


class TestState(models.TextChoices):
    __test__ = False  # not a test of pytest

    DRAFT = "draft", "Draft"
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    STOPPED = "stopped", "Stopped"


def _salt() -> str:
    return secrets.token_hex(8)


class ABTest(WorkspaceObject):
    """Two or more versions of one model share its traffic; everybody keeps the variant they got.

        draft ──start──► running ◄──start/pause──► paused
                            └───────stop──► stopped ◄──stop┘

    Only a running test holds the model's route. A paused one gives it back (production answers, nothing is counted)
    and takes it again with the same salt, so that everybody meets their variant again. A stopped one stays as it is.
    """

    name = models.CharField(max_length=100)
    description = models.TextField(blank=True, help_text="What the team wants to learn")
    model = models.ForeignKey("registry.RegisteredModel", on_delete=models.PROTECT, related_name="tests")
    state = models.CharField(max_length=10, choices=TestState, default=TestState.DRAFT, editable=False, db_index=True)
    unit = models.CharField(max_length=10, default="user", editable=False, help_text="What is assigned and counted")
    metrics = models.JSONField(default=list, blank=True, help_text="What matters, most important first")
    salt = models.CharField(max_length=32, default=_salt, editable=False, help_text="Decides who gets which variant")
    winner = models.ForeignKey(
        "abtests.Variant", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    started_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="The first start")
    stopped_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta(WorkspaceObject.Meta):
        verbose_name = "A/B test"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="one_test_per_name"),
            models.UniqueConstraint(fields=["model"], condition=Q(state="running"), name="one_running_test_per_model"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def owner(self) -> str:
        """How the route says that this test holds it."""
        return f"abtest:{self.pk}"

    def move(self, to: TestState, *, start: Collection[TestState], **also: Any) -> None:
        """Go to state `to` if the test is in one of `start` at this moment. Raises Conflict otherwise."""
        if not ABTest.objects.filter(pk=self.pk, state__in=start).update(state=to, **also):
            self.refresh_from_db(fields=["state"])
            wanted = " or ".join(start)
            raise Conflict(f"'{self}' is {self.state}; only a {wanted} test can become {to}.")
        self.refresh_from_db()

    @property
    def is_running(self) -> bool:
        return self.state == TestState.RUNNING

    def age(self) -> float:
        """Seconds since the first start, until it stopped; 0 before."""
        return ((self.stopped_at or timezone.now()) - self.started_at).total_seconds() if self.started_at else 0.0


class Variant(models.Model):
    """One arm of a test: a version and its share. Shares are relative whole numbers."""

    test = models.ForeignKey(ABTest, on_delete=models.CASCADE, related_name="variants")
    key = models.CharField(max_length=40, help_text="a, b, …: its name on the route and in every answer")
    version = models.ForeignKey("registry.ModelVersion", on_delete=models.PROTECT, related_name="variants")
    deployment = models.ForeignKey("registry.Deployment", null=True, on_delete=models.PROTECT, related_name="+")
    deployed_here = models.BooleanField(default=False, help_text="The test deployed it; nobody had wanted it before")
    weight = models.PositiveIntegerField(default=50)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["test", "key"], name="one_variant_per_key"),
            models.CheckConstraint(condition=Q(weight__gte=1), name="a_variant_has_a_share"),
        ]

    def __str__(self) -> str:
        return f"{self.key}: {self.version}"
