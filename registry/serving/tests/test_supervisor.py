"""Engines follow what people want: real rows, real processes, a loop turned by hand."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from django.utils import timezone

from project.kernel import artifacts
from registry.models import Deployment, DeploymentState, Engine, EngineState
from registry.serving.supervisor import ServeOptions, Supervisor
from registry.serving.tests.cast import START_TIMEOUT
from registry.serving.tests.conftest import Shelf

OPTIONS = ServeOptions(drain=2, engine={"dtype": "float32", "threads": 1})


@pytest.fixture
def supervisor(db: None, tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor("here", folder=tmp_path, options=OPTIONS)
    yield supervisor
    supervisor.close()


def turn_until(supervisor: Supervisor, condition: Callable[[], bool], *, seconds: float = START_TIMEOUT) -> None:
    until = time.monotonic() + seconds
    while True:
        supervisor.tick()
        if condition():
            return
        rows = [(str(d), d.state, d.failure) for d in Deployment.objects.all()]
        assert time.monotonic() < until, (rows, list(Engine.objects.values_list("state", "failure")))
        time.sleep(0.1)


def is_in(deployment: Deployment, state: DeploymentState) -> Callable[[], bool]:
    return lambda: Deployment.objects.get(pk=deployment.pk).state == state


def ask(deployment: Deployment) -> str:
    """One answer from the engine that the rows name, with the secret that the rows give."""
    deployment.refresh_from_db()
    engine = deployment.engine
    assert engine is not None and engine.is_alive()
    question = {"messages": [{"role": "user", "content": "What is it?"}], "temperature": 0, "max_tokens": 12}
    answer = httpx.post(
        f"{engine.url}/v1/chat/completions",
        json=question | {"model": deployment.engine_model},
        headers={"authorization": f"Bearer {engine.secret}"},
        timeout=60,
    )
    return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


def process_of(engine: Engine) -> psutil.Process:
    return psutil.Process(engine.pid)


def test_one_engine_holds_a_base_and_its_adapters_and_follows_what_is_wanted(
    supervisor: Supervisor, shelf: Shelf
) -> None:
    supervisor.tick()
    assert not Engine.objects.exists()
    base, red, blue = (shelf.deploy(version) for version in (shelf.base, shelf.red, shelf.blue))
    for deployment in (base, red, blue):
        turn_until(supervisor, is_in(deployment, DeploymentState.HEALTHY))
    engine = Engine.objects.get()
    assert (engine.state, engine.host, engine.context) == (EngineState.READY, "here", 512)
    assert len({ask(deployment) for deployment in (base, red, blue)}) == 3
    process = process_of(engine)
    assert engine.secret not in " ".join(process.cmdline())
    assert not {"SECRET_KEY", "DATABASE_URL", "DJANGO_SETTINGS_MODULE"} & set(process.environ())
    assert (supervisor._folder / str(engine.pk) / "spec.json").stat().st_mode & 0o077 == 0

    Deployment.objects.filter(pk=red.pk).update(wanted=False, drain_until=timezone.now() + timedelta(seconds=1))
    supervisor.tick()
    assert ask(red)  # until the drain is over it answers whoever has not heard yet
    turn_until(supervisor, is_in(red, DeploymentState.STOPPED))
    assert ask(blue)
    Deployment.objects.filter(wanted=True).update(wanted=False)
    turn_until(supervisor, lambda: Engine.objects.get().state == EngineState.STOPPED)
    assert not process.is_running()
    assert set(Deployment.objects.values_list("state", flat=True)) == {DeploymentState.STOPPED}


@pytest.mark.full
def test_a_killed_engine_is_replaced(supervisor: Supervisor, shelf: Shelf) -> None:
    deployment = shelf.deploy(shelf.red)
    turn_until(supervisor, is_in(deployment, DeploymentState.HEALTHY))
    before = ask(deployment)
    first = Engine.objects.get()
    process_of(first).kill()
    turn_until(supervisor, lambda: Engine.objects.get(pk=first.pk).state == EngineState.FAILED)
    turn_until(supervisor, is_in(deployment, DeploymentState.HEALTHY))
    assert ask(deployment) == before
    deployment.refresh_from_db()
    assert deployment.engine_id != first.pk and deployment.failures == 1
    assert "signal 9" in Engine.objects.get(pk=first.pk).failure


@pytest.mark.full
def test_what_cannot_be_loaded_fails_in_words_waits_and_leaves_the_others_alone(
    supervisor: Supervisor, shelf: Shelf
) -> None:
    good, bad = shelf.deploy(shelf.blue), shelf.deploy(shelf.red)
    weights = artifacts.local_path(shelf.red.artifact) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    turn_until(supervisor, is_in(bad, DeploymentState.FAILED))
    turn_until(supervisor, is_in(good, DeploymentState.HEALTHY))
    bad.refresh_from_db()
    assert "adapter_model.safetensors" in bad.failure and bad.failures == 1
    assert bad.retry_at is not None and bad.retry_at > timezone.now()
    supervisor.tick()
    assert is_in(bad, DeploymentState.FAILED)()
    Deployment.objects.filter(pk=bad.pk).update(retry_at=timezone.now())
    turn_until(supervisor, lambda: Deployment.objects.get(pk=bad.pk).failures == 2)
    assert ask(good)


@pytest.mark.full
def test_a_base_that_cannot_be_loaded_is_tried_again_later_and_later(supervisor: Supervisor, shelf: Shelf) -> None:
    (artifacts.local_path(shelf.base.artifact) / "config.json").unlink()
    deployment = shelf.deploy(shelf.base)
    turn_until(supervisor, is_in(deployment, DeploymentState.FAILED))
    deployment.refresh_from_db()
    assert deployment.failure and "Traceback" not in deployment.failure
    first_wait = deployment.retry_at - timezone.now()
    Deployment.objects.update(retry_at=timezone.now())
    turn_until(supervisor, lambda: Deployment.objects.get().failures == 2)
    deployment.refresh_from_db()
    assert deployment.retry_at - timezone.now() > first_wait


@pytest.mark.full
def test_another_hosts_deployments_are_left_to_it_while_its_lease_lasts(supervisor: Supervisor, shelf: Shelf) -> None:
    until = timezone.now() + timedelta(seconds=60)
    theirs = Engine.objects.create(
        host="there", base_version=shelf.base, state=EngineState.READY, url="http://there", lease_until=until
    )
    taken, bound = shelf.deploy(shelf.red), shelf.deploy(shelf.blue)
    Deployment.objects.filter(pk=taken.pk).update(engine=theirs, state=DeploymentState.HEALTHY)
    Deployment.objects.filter(pk=bound.pk).update(host="there")
    supervisor.tick()
    assert Engine.objects.count() == 1
    Engine.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    turn_until(supervisor, is_in(taken, DeploymentState.HEALTHY))
    taken.refresh_from_db()
    assert taken.engine is not None and taken.engine.host == "here"
    assert Engine.objects.get(pk=theirs.pk).state == EngineState.FAILED
    assert is_in(bound, DeploymentState.PENDING)()


@pytest.mark.full
def test_closing_ends_every_process_and_says_so(shelf: Shelf, tmp_path: Path) -> None:
    supervisor = Supervisor("here", folder=tmp_path, options=OPTIONS)
    deployment = shelf.deploy(shelf.base)
    turn_until(supervisor, is_in(deployment, DeploymentState.HEALTHY))
    process = process_of(Engine.objects.get())
    supervisor.close()
    assert not process.is_running()
    assert Engine.objects.get().state == EngineState.STOPPED
    assert is_in(deployment, DeploymentState.PENDING)()  # still wanted: the next supervisor takes it


@pytest.mark.full
def test_a_new_supervisor_ends_what_a_dead_one_left(shelf: Shelf, tmp_path: Path) -> None:
    lost = Supervisor("here", folder=tmp_path / "lost", options=OPTIONS)
    deployment = shelf.deploy(shelf.base)
    turn_until(lost, is_in(deployment, DeploymentState.HEALTHY))
    orphan = process_of(Engine.objects.get())
    supervisor = Supervisor("here", folder=tmp_path / "new", options=OPTIONS)
    supervisor.take_over()
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    turn_until(supervisor, is_in(deployment, DeploymentState.HEALTHY))
    assert ask(deployment)
    supervisor.close()
    lost.close()
