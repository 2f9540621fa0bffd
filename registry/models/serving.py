"""Which versions should answer, which engines hold them, and how requests are shared out."""

import secrets
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from project.kernel.models import WorkspaceObject, new_id
from registry.models.catalogue import ModelVersion, RegisteredModel


class EngineState(models.TextChoices):
    STARTING = "starting", "Starting"
    READY = "ready", "Ready"
    FAILED = "failed", "Failed"
    STOPPED = "stopped", "Stopped"


class Engine(models.Model):
    """One process that holds one base model and any number of adapters. Every start makes a new row.

        starting ─► ready ─► stopped
            └────────┴─────► failed

    The supervisor on `host` renews the lease; an engine whose lease has run out is dead, whatever its state says.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.CharField(max_length=200)
    base_version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="engines")
    device = models.CharField(max_length=20, default="cpu")
    dtype = models.CharField(max_length=20, blank=True)
    url = models.CharField(max_length=300, blank=True)
    pid = models.PositiveIntegerField(null=True, blank=True)
    process_created = models.FloatField(null=True, blank=True, help_text="Unix time; with the pid it names the process")
    state = models.CharField(max_length=10, choices=EngineState, default=EngineState.STARTING, db_index=True)
    lease_owner = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    failure = models.TextField(blank=True)
    context = models.PositiveIntegerField(default=0, help_text="tokens of prompt and answer together")
    started_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["host", "state"], name="engine_of_host")]

    def __str__(self) -> str:
        return f"engine {str(self.pk)[-6:]} on {self.host}"

    @property
    def secret(self) -> str:
        """What a request to the engine must carry. Derived from SECRET_KEY: our processes know it, none stores it."""
        return salted_hmac("registry.engine", str(self.pk), algorithm="sha256").hexdigest()

    def is_alive(self) -> bool:
        """Its supervisor vouched for it lately."""
        return self.state in (EngineState.STARTING, EngineState.READY) and (
            self.lease_until is not None and self.lease_until > timezone.now()
        )


class DeploymentState(models.TextChoices):
    PENDING = "pending", "Waiting for an engine"
    LOADING = "loading", "Loading"
    HEALTHY = "healthy", "Healthy"
    FAILED = "failed", "Failed"
    STOPPED = "stopped", "Stopped"


class Deployment(WorkspaceObject):
    """A version that should be ready to answer. People say what is `wanted`; the supervisor says what `state` it is in.

        pending ─► loading ─► healthy ─┐
           ▲          │          │     │ engine lost
           └──────────┴──────────┴─────┘
        any ─► failed (tried again after `retry_at`) · not wanted: any ─► stopped

    At most one wanted deployment per version and target. A stopped one is not started again; deploying makes a new row.
    After being let go it may go on until `drain_until`, because answers under way and gateways that have not yet read
    the new route still use it.
    """

    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="deployments")
    target = models.CharField(max_length=20, default="local")
    wanted = models.BooleanField(default=True)
    state = models.CharField(max_length=10, choices=DeploymentState, default=DeploymentState.PENDING, db_index=True)
    engine = models.ForeignKey(Engine, null=True, blank=True, on_delete=models.SET_NULL, related_name="deployments")
    host = models.CharField(max_length=200, blank=True, help_text="Only this host may serve it; empty: any")
    failure = models.TextField(blank=True)
    failures = models.PositiveIntegerField(default=0, help_text="In a row")
    retry_at = models.DateTimeField(null=True, blank=True)
    drain_until = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True, help_text="Last health check")
    healthy_at = models.DateTimeField(null=True, blank=True, help_text="When it became healthy")
    stopped_at = models.DateTimeField(null=True, blank=True)
    state_changed_at = models.DateTimeField(default=timezone.now)

    DRAIN = timedelta(seconds=30)

    class Meta(WorkspaceObject.Meta):
        constraints = [
            models.UniqueConstraint(
                fields=["version", "target"], condition=Q(wanted=True), name="one_wanted_deployment_per_version"
            )
        ]
        indexes = [models.Index(fields=["wanted", "state"], name="deployment_wanted")]

    def __str__(self) -> str:
        return f"{self.version} on {self.target}"

    @property
    def engine_model(self) -> str:
        """The name under which the engine knows this version: 'base', or its adapter's name."""
        return adapter_name(self.version) if self.version.is_adapter else "base"

    @property
    def is_changing(self) -> bool:
        """Something is about to happen to it, so look again soon."""
        return self.state in (DeploymentState.PENDING, DeploymentState.LOADING) or self.shown_state == "stopping"

    @property
    def shown_state(self) -> str:
        """The state for people: one that was let go and still finishes its answers is 'stopping'."""
        return "stopping" if not self.wanted and self.state != DeploymentState.STOPPED else str(self.state)

    @property
    def is_healthy(self) -> bool:
        return self.state == DeploymentState.HEALTHY

    def move(self, to: DeploymentState, *, start: tuple[DeploymentState, ...] = (), **also: Any) -> bool:
        """Go to state `to` (only from `start`, when given) unless it has stopped; false when it did not apply."""
        rows = Deployment.objects.filter(pk=self.pk).exclude(state=DeploymentState.STOPPED)
        if start:
            rows = rows.filter(state__in=start)
        moved = rows.update(state=to, state_changed_at=timezone.now(), **also)
        self.refresh_from_db(fields=["state", "state_changed_at", *also])
        return bool(moved)


def adapter_name(version: ModelVersion) -> str:
    """How an engine calls the adapter of a version: unique, and safe in a URL."""
    return f"v-{version.pk}"


def _salt() -> str:
    return secrets.token_hex(8)


class Route(WorkspaceObject):
    """Who answers for a model's name: its arms, by weight. Only roll-outs and A/B tests write here.

    `owner` is '' when the one arm follows production, else 'rollout' or 'abtest:<id>': while one holds it, nobody
    else may change it. `revision` grows with every change, so that gateways see one with a single cheap query.
    """

    model = models.OneToOneField(RegisteredModel, on_delete=models.PROTECT, related_name="route")
    salt = models.CharField(max_length=32, default=_salt, editable=False, help_text="Decides who gets which arm")
    owner = models.CharField(max_length=60, blank=True, editable=False)
    revision = models.PositiveIntegerField(default=1, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"route of {self.model.name}"


class RouteArm(models.Model):
    """One share of a route. Weights are relative whole numbers; an arm of weight 0 gets nothing new."""

    route = models.ForeignKey(Route, on_delete=models.CASCADE, related_name="arms")
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="arms")
    key = models.CharField(max_length=40, default="main", help_text="The name of the variant")
    weight = models.PositiveIntegerField(default=100)
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["route", "key"], name="one_arm_per_key"),
            models.UniqueConstraint(fields=["route", "position"], name="one_arm_per_position"),
        ]

    def __str__(self) -> str:
        return f"{self.key} ({self.weight}) of {self.route}"
