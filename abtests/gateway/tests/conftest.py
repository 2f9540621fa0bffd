"""A real engine, rows that name it, and the gateway on a real server in front of it."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
import uvicorn
from django.utils import timezone

from abtests.gateway.app import Gateway
from project.kernel.actions import tokens
from project.kernel.models import Artifact, Workspace
from project.testing import Cast
from registry.models import (
    Deployment,
    DeploymentState,
    Engine,
    EngineState,
    ModelVersion,
    RegisteredModel,
    Route,
    RouteArm,
    Stage,
    VersionKind,
)
from registry.models.serving import adapter_name
from registry.serving.tests.cast import Engine as EngineProcess
from registry.serving.tests.cast import make_adapter, running_engine

ENGINE_ID = UUID("01900000-0000-7000-8000-000000000001")
ADAPTER_IDS = tuple(UUID(f"01900000-0000-7000-8000-00000000010{number}") for number in range(2))


@pytest.fixture(scope="session")
def engine_process(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """A base and two adapters, under the names and the secret that the rows below lead to."""
    folder = tmp_path_factory.mktemp("gateway-engine")
    secret = Engine(pk=ENGINE_ID).secret
    with running_engine(folder, tiny_base, secret=secret, max_waiting=200) as engine:
        for number, version_id in enumerate(ADAPTER_IDS):
            path = make_adapter(tiny_base, folder / f"adapter{number}", seed=number)
            name = adapter_name(ModelVersion(pk=version_id))
            answer = httpx.put(
                f"{engine.url}/adapters/{name}",
                json={"path": str(path)},
                headers={"authorization": f"Bearer {secret}"},
                timeout=60,
            )
            answer.raise_for_status()
        yield engine


@dataclass
class Served:
    """Model `tiny` (the base) and model `intents` (versions 1 in production and 2 in staging), all deployed."""

    workspace: Workspace
    engine: Engine
    tiny: ModelVersion
    one: ModelVersion
    two: ModelVersion
    route: Route
    cast: Cast
    url: str = ""
    _numbers: list[int] = field(default_factory=list)

    def token(self, who: str = "owner", scopes: list[str] | None = None) -> str:
        actor = self.cast.actor(who)
        return tokens.create(name=f"{who}'s", role=actor.role, scopes=scopes or [], by=actor)[1]

    def client(self, secret: str | None = None, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=secret or self.token(), **{"max_retries": 0, "timeout": 60} | options
        )

    def deployment(self, version: ModelVersion) -> Deployment:
        return Deployment.objects.get(version=version)

    def share(self, first: int, second: int, owner: str = "") -> None:
        """Share the traffic of `intents` between its versions."""
        self.route.arms.all().delete()
        for position, (key, version, weight) in enumerate((("a", self.one, first), ("b", self.two, second))):
            RouteArm.objects.create(
                route=self.route, deployment=self.deployment(version), key=key, weight=weight, position=position
            )
        Route.objects.filter(pk=self.route.pk).update(owner=owner)


def make_served(cast: Cast, url: str) -> Served:
    workspace = cast.workspace
    engine_of = _version(workspace, "tiny", Stage.PRODUCTION)
    base = engine_of
    engine = Engine.objects.create(
        pk=ENGINE_ID,
        host="here",
        base_version=base,
        url=url,
        state=EngineState.READY,
        lease_until=timezone.now() + timedelta(hours=1),
    )
    intents = RegisteredModel.objects.create(workspace=workspace, name="intents")
    one = _version(workspace, intents, Stage.PRODUCTION, base=base, pk=ADAPTER_IDS[0])
    two = _version(workspace, intents, Stage.STAGING, base=base, pk=ADAPTER_IDS[1])
    for version in (base, one, two):
        Deployment.objects.create(workspace=workspace, version=version, engine=engine, state=DeploymentState.HEALTHY)
    route = Route.objects.create(workspace=workspace, model=intents)
    served = Served(workspace, engine, base, one, two, route, cast)
    served.share(1, 0)
    return served


def _version(
    workspace: Workspace, model: RegisteredModel | str, stage: Stage, *, base: ModelVersion | None = None, **more: Any
) -> ModelVersion:
    if isinstance(model, str):
        model = RegisteredModel.objects.create(workspace=workspace, name=model)
    number = model.next_number()
    artifact = Artifact.objects.create(
        workspace=workspace, kind="model", key=f"t/{model.pk}/{number}", manifest=[], digest="0" * 64, size=0
    )
    return ModelVersion.objects.create(
        workspace=workspace,
        model=model,
        number=number,
        stage=stage,
        kind=VersionKind.ADAPTER if base else VersionKind.FULL,
        base=base,
        artifact=artifact,
        origin="import",
        **more,
    )


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """An ASGI application on a real server in a thread: its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))

    async def serve() -> None:
        await server.serve(sockets=[listener])
        if isinstance(app, Gateway):
            await app.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture
def served(transactional_db: None, cast: Cast, engine_process: EngineProcess) -> Iterator[Served]:
    served = make_served(cast, engine_process.url)
    with running(Gateway()) as served.url:
        yield served


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool], seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.02)

    return wait
