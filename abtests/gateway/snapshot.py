"""What the gateway must know to answer a request, in memory: tokens, routes, deployed versions and living engines.

Read from the database in a few small queries, often enough that a revoked token or a changed split is heard of within
two seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from project.kernel.errors import Problem
from project.kernel.models import ApiToken, Workspace
from project.kernel.references import Reference
from registry.actions.references import resolve
from registry.models import Deployment, DeploymentState, EngineState, RegisteredModel, Route, Stage
from registry.serving.supervisor import database_now


@dataclass(frozen=True, slots=True)
class Key:
    """A token, and the workspace it is inside of."""

    id: UUID
    label: str
    workspace_id: UUID
    workspace_slug: str
    hash_key: str
    scopes: frozenset[str]
    expires_at: datetime | None
    last_used_at: datetime | None

    def may(self, *scopes: str) -> bool:
        """Does it have one of these scopes? No scopes at all means every one."""
        return not self.scopes or any(scope in self.scopes for scope in scopes)


@dataclass(frozen=True, slots=True)
class Backend:
    """A deployed version, and where to reach it; `url` is empty while it is not healthy."""

    deployment_id: UUID
    version_id: UUID
    engine_id: UUID | None
    url: str
    secret: str = field(repr=False)
    engine_model: str

    @property
    def is_up(self) -> bool:
        return bool(self.url)


@dataclass(frozen=True, slots=True)
class Arm:
    key: str
    weight: int
    backend: Backend


@dataclass(frozen=True, slots=True)
class Split:
    """Who shares a model's traffic. `test_id` is set while an A/B test decides."""

    arms: tuple[Arm, ...]
    salt: str = ""
    test_id: UUID | None = None


@dataclass(slots=True)
class Model:
    """A name of one workspace: its split, and its deployed versions by number, stage and id."""

    id: UUID
    name: str
    created: int
    split: Split | None = None
    by_number: dict[int, Backend] = field(default_factory=dict)
    by_stage: dict[str, Backend] = field(default_factory=dict)

    def find(self, wanted: Reference) -> Split | None:
        """Who answers for `name`, `name@stage` or `name:3`; None if nothing is deployed for it."""
        if wanted.number is not None:
            return _alone(self.by_number.get(wanted.number))
        if wanted.label:
            return _alone(self.by_stage.get(wanted.label))
        return self.split or _alone(self.by_stage.get(Stage.PRODUCTION))


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment. `keys` by the hash of the secret, `models` by workspace and name."""

    keys: Mapping[str, Key]
    models: Mapping[UUID, Mapping[str, Model]]
    engines: frozenset[UUID]

    def find(self, workspace_id: UUID, wanted: Reference) -> tuple[Model, Split] | None:
        """The model that is meant and who answers for it; None if there is none, or nothing of it is deployed."""
        models = self.models.get(workspace_id, {})
        for model in [models[wanted.name]] if wanted.name in models else models.values() if wanted.id else ():
            split = self._by_id(model, wanted.id) if wanted.id else model.find(wanted)
            if split is not None:
                return model, split
        return None

    def _by_id(self, model: Model, wanted: UUID) -> Split | None:
        if model.id == wanted:
            return model.find(Reference(name=model.name))
        return _alone(next((b for b in model.by_number.values() if b.version_id == wanted), None))

    def served(self, workspace_id: UUID) -> list[Model]:
        """Models that answer to their bare name, by name."""
        models = self.models.get(workspace_id, {})
        return [models[name] for name in sorted(models) if models[name].find(Reference(name=name))]


def _alone(backend: Backend | None) -> Split | None:
    return Split(arms=(Arm("", 1, backend),)) if backend is not None else None


# --- read from the database, in a thread


def load() -> Snapshot:
    backends = _backends()
    up = frozenset(b.engine_id for _, b in backends.values() if b.is_up and b.engine_id is not None)
    return Snapshot(keys=load_keys(), models=_models(backends), engines=up)


def load_keys(**lookup: Any) -> dict[str, Key]:
    """Usable tokens by the hash of their secret; all, or those that match `lookup`."""
    tokens = ApiToken.objects.filter(revoked_at=None).filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
    tokens = tokens.filter(Q(user=None) | Q(user__is_active=True)).filter(**lookup)
    return {
        token.secret_hash: Key(
            id=token.pk,
            label=f"token {token.name}",
            workspace_id=token.workspace_id,
            workspace_slug=token.workspace.slug,
            hash_key=token.workspace.hash_key,
            scopes=frozenset(token.scopes),
            expires_at=token.expires_at,
            last_used_at=token.last_used_at,
        )
        for token in tokens.select_related("workspace")
    }


def note_use(token_id: UUID) -> None:
    ApiToken.objects.filter(pk=token_id).update(last_used_at=timezone.now())


def why_not(workspace_id: UUID, reference: str) -> str:
    """Why nothing answers for a reference, in the words of the registry."""
    try:
        version = resolve(Workspace.objects.get(pk=workspace_id), reference)
    except Problem as problem:
        return problem.detail
    return f"{version} is not deployed. Deploy it first."


def _backends() -> dict[UUID, tuple[Deployment, Backend]]:
    """What is wanted, and what is being let go but still answers."""
    now = database_now()
    deployments = Deployment.objects.exclude(state=DeploymentState.STOPPED).filter(
        Q(wanted=True) | Q(drain_until__gt=now)
    )
    return {
        deployment.pk: (deployment, _backend(deployment, now))
        for deployment in deployments.select_related("engine", "version")
    }


def _backend(deployment: Deployment, now: datetime) -> Backend:
    engine = deployment.engine
    url = secret = ""
    if (
        engine is not None
        and deployment.state == DeploymentState.HEALTHY
        and engine.state == EngineState.READY
        and engine.lease_until is not None
        and engine.lease_until > now
    ):
        url, secret = engine.url, engine.secret
    return Backend(
        deployment_id=deployment.pk,
        version_id=deployment.version_id,
        engine_id=deployment.engine_id,
        url=url,
        secret=secret,
        engine_model=deployment.engine_model,
    )


def _models(backends: dict[UUID, tuple[Deployment, Backend]]) -> dict[UUID, dict[str, Model]]:
    """Models of which something is deployed."""
    deployed = {deployment.version.model_id for deployment, _ in backends.values()}
    by_id: dict[UUID, Model] = {}
    workspaces: dict[UUID, dict[str, Model]] = {}
    for row in RegisteredModel.objects.filter(pk__in=deployed).only("id", "workspace_id", "name", "created_at"):
        model = Model(id=row.pk, name=row.name, created=int(row.created_at.timestamp()))
        by_id[row.pk] = workspaces.setdefault(row.workspace_id, {})[row.name] = model
    # What is wanted, and of that the newest, has the last word.
    for deployment, backend in sorted(backends.values(), key=lambda pair: (pair[0].wanted, pair[0].version.number)):
        model = by_id[deployment.version.model_id]
        model.by_number[deployment.version.number] = backend
        if deployment.wanted:
            model.by_stage[deployment.version.stage] = backend
    for route in Route.objects.filter(model__in=deployed).prefetch_related("arms"):
        arms = tuple(
            Arm(arm.key, arm.weight, backends[arm.deployment_id][1])
            for arm in route.arms.all()
            if arm.deployment_id in backends
        )
        if any(arm.weight for arm in arms):
            by_id[route.model_id].split = Split(arms=arms, salt=route.salt, test_id=_test_of(route.owner))
    return workspaces


def _test_of(owner: str) -> UUID | None:
    kind, _, number = owner.partition(":")
    return UUID(number) if kind == "abtest" else None
