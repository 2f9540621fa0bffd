"""What `manage.py serve` does: make the engines of this host match the deployments that people want.

Every second it looks at the wanted deployments and at its processes, and takes one step of each towards the other. All
database writes happen in the one thread that calls `tick`; slow things (fetching weights, loading, a test question)
run in a pool that knows no database, and their outcome is read at a later tick. The rows are the truth: after a crash
of this process nothing is lost, because its engines end with it and the next one starts from the rows.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from django.db import OperationalError, connection
from django.db.models import Q
from django.utils import timezone

from project.jobs import slots
from project.kernel import artifacts, live
from registry.actions import deployments
from registry.models import Deployment, DeploymentState, Engine, EngineState, ModelVersion
from registry.serving.process import EngineProcess, EngineRefused, kill_if_same

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between looks
HEALTH_EVERY = 5.0  # seconds
HEALTH_FAILURES = 3  # in a row, then the process is killed
START_TIMEOUT = 900.0  # seconds for a base model to be loaded
STABLE_AFTER = timedelta(seconds=60)  # of health, after which earlier failures are forgotten
LONGEST_WAIT = 300.0  # seconds between two tries


@dataclass(frozen=True)
class ServeOptions:
    """How engines of this host are run. `device` is cpu or cuda:N; see EngineSpec for the rest."""

    devices: tuple[str, ...] = ("cpu",)
    lease: float = 15.0
    drain: float = 20.0
    engine: dict[str, Any] = field(default_factory=dict)


@dataclass
class Held:
    """An engine this supervisor runs."""

    row_id: UUID
    base_id: UUID
    device: str
    process: EngineProcess
    launch: "Future[None]"
    began: float = field(default_factory=time.monotonic)
    is_named: bool = False
    was_ready: bool = False
    health: "Future[dict[str, Any]] | None" = None
    health_at: float = 0.0
    health_failures: int = 0


class Supervisor:
    """One per host. `tick` until told to stop, then `close`."""

    def __init__(self, host: str, *, folder: Path, options: ServeOptions) -> None:
        self._host, self._folder, self._options = host, folder, options
        self._owner = f"{host}:{timezone.now().timestamp():.3f}"
        self._held: dict[UUID, Held] = {}
        self._work: dict[tuple[UUID, UUID], Future[None]] = {}  # (deployment, engine): loading and test question
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="serve")

    def run(self, stop: threading.Event) -> None:
        """Look every second until `stop` is set. A database that is away for a while stops nothing that runs."""
        self._retry_database(self.take_over, stop)
        while not stop.is_set():
            began = time.monotonic()
            with _database_may_be_away():
                self.tick()
            stop.wait(max(0.0, TICK - (time.monotonic() - began)))
        self.close()

    def take_over(self) -> None:
        """End what an earlier supervisor of this host left, in the process list and in the rows."""
        for engine in Engine.objects.filter(host=self._host, state__in=ALIVE):
            if kill_if_same(engine.pid, engine.process_created):
                log.warning("killed %s (pid %s), which an earlier supervisor left", engine, engine.pid)
            self._end_row(engine.pk, EngineState.FAILED, "The supervisor of this host was restarted.")
            self._waiting_again(engine.pk)

    def tick(self) -> None:
        """One look at everything."""
        now = database_now()
        self._renew(now)
        for held in list(self._held.values()):
            self._look_after(held, now)
        self._place(now)
        self._advance(now)
        self._let_go(now)
        self._stop_idle()

    def close(self) -> None:
        """Say that nothing is served here any more, let running answers finish, end every engine."""
        with _database_may_be_away():
            for held in self._held.values():
                self._waiting_again(held.row_id)
                self._end_row(held.row_id, EngineState.STOPPED)
        for held in self._held.values():
            held.process.stop(self._options.drain)
        while self._held:
            for held in list(self._held.values()):
                held.process.enforce()
                if held.process.has_exited or (held.launch.done() and held.process.pid is None):
                    held.process.close()
                    del self._held[held.row_id]
                elif held.launch.done():
                    held.process.stop(self._options.drain)
            time.sleep(0.05)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _retry_database(self, call: Callable[[], None], stop: threading.Event) -> None:
        while not stop.is_set():
            with _database_may_be_away():
                call()
                return
            stop.wait(TICK)

    # --- engines

    def _renew(self, now: datetime) -> None:
        until = now + timedelta(seconds=self._options.lease)
        Engine.objects.filter(pk__in=self._held, lease_owner=self._owner).update(lease_until=until)

    def _look_after(self, held: Held, now: datetime) -> None:
        """Notice what became of a process: loaded, ended, stuck."""
        error = held.launch.exception() if held.launch.done() else None
        if error is not None:
            log.error("could not start an engine", exc_info=error)
            self._forget(held, f"The engine could not be started: {error}")
        elif not held.launch.done():
            return
        elif held.process.has_exited:
            stopped = held.process.is_stopping
            self._forget(held, "" if stopped else held.process.why(), stopped=stopped)
        elif held.process.is_stopping:
            held.process.enforce()
        elif not held.was_ready:
            self._name_process(held)
            self._look_whether_ready(held, now)
        else:
            self._check_health(held, now)

    def _name_process(self, held: Held) -> None:
        """Write down which process it is, so that a later supervisor can end it."""
        if not held.is_named:
            held.is_named = True
            Engine.objects.filter(pk=held.row_id).update(pid=held.process.pid, process_created=held.process.created())

    def _look_whether_ready(self, held: Held, now: datetime) -> None:
        ready = held.process.ready()
        if ready is not None:
            Engine.objects.filter(pk=held.row_id).update(
                state=EngineState.READY,
                url=ready.url,
                dtype=ready.dtype,
                context=ready.context,
                ready_at=now,
            )
            held.was_ready = True
            log.info("engine on %s is ready at %s", held.device, ready.url)
        elif time.monotonic() - held.began > START_TIMEOUT:
            held.process.kill()

    def _check_health(self, held: Held, now: datetime) -> None:
        if held.health is None:
            if time.monotonic() - held.health_at >= HEALTH_EVERY:
                held.health_at = time.monotonic()
                held.health = self._pool.submit(held.process.health)
            return
        if not held.health.done():
            return
        error, held.health = held.health.exception(), None
        if error is None:
            held.health_failures = 0
            healthy = Deployment.objects.filter(engine_id=held.row_id, state=DeploymentState.HEALTHY)
            healthy.update(checked_at=now)
            healthy.filter(failures__gt=0, healthy_at__lt=now - STABLE_AFTER).update(failures=0)
            return
        held.health_failures += 1
        log.warning("engine %s is not well (%s of %s): %s", held.row_id, held.health_failures, HEALTH_FAILURES, error)
        if held.health_failures >= HEALTH_FAILURES:
            held.process.kill()

    def _forget(self, held: Held, failure: str, *, stopped: bool = False) -> None:
        """The process is gone: so is what it served."""
        held.process.close()
        del self._held[held.row_id]
        if stopped:
            self._end_row(held.row_id, EngineState.STOPPED)
            self._waiting_again(held.row_id)
            return
        log.error("engine on %s is gone: %s", held.device, failure)
        self._end_row(held.row_id, EngineState.FAILED, failure)
        for deployment in self._on(held.row_id):
            if held.was_ready:  # the first time it is replaced at once, then waits get longer
                self._move(deployment, DeploymentState.PENDING, failure=failure, wait=_wait(deployment.failures))
            else:
                self._move(deployment, DeploymentState.FAILED, failure=failure, wait=_wait(deployment.failures + 1))

    def _waiting_again(self, engine_id: UUID) -> None:
        for deployment in self._on(engine_id):
            self._move(deployment, DeploymentState.PENDING, count=False)

    def _on(self, engine_id: UUID) -> list[Deployment]:
        """Deployments that still count on this engine."""
        return list(Deployment.objects.filter(engine_id=engine_id).exclude(state=DeploymentState.STOPPED))

    def _end_row(self, engine_id: UUID, state: EngineState, failure: str = "") -> None:
        Engine.objects.filter(pk=engine_id, state__in=ALIVE).update(
            state=state, failure=failure, finished_at=timezone.now(), lease_until=None
        )
        slots.release(self._host, _place_of(engine_id))

    # --- deployments

    def _place(self, now: datetime) -> None:
        """Give every wanted deployment that has no living engine one of ours."""
        wanted = Deployment.objects.filter(Q(host="") | Q(host=self._host), wanted=True, target="local")
        waiting = wanted.exclude(engine_id__in=self._held).filter(Q(retry_at=None) | Q(retry_at__lte=now))
        for deployment in waiting.select_related("engine", "version__base__artifact", "version__artifact"):
            old = deployment.engine
            if old is not None and _is_alive(old, now):
                continue  # another host serves it
            if old is not None:
                self._end_row(old.pk, EngineState.FAILED, "Its supervisor fell silent.")
            held = self._engine_for(deployment.version.foundation, now)
            taken = Deployment.objects.filter(pk=deployment.pk, engine=deployment.engine, wanted=True).exclude(
                state=DeploymentState.STOPPED
            )
            if taken.update(engine_id=held.row_id, retry_at=None):
                deployment.move(DeploymentState.LOADING)
                self._tell(deployment)

    def _engine_for(self, base: ModelVersion, now: datetime) -> Held:
        """The engine that holds `base`; a new one on the device with the fewest if there is none."""
        for held in self._held.values():
            if held.base_id == base.pk and not held.process.is_stopping:
                return held
        load = dict.fromkeys(self._options.devices, 0)
        for held in self._held.values():
            load[held.device] = load.get(held.device, 0) + 1
        device = min(self._options.devices, key=lambda name: load[name])
        row = Engine.objects.create(
            host=self._host,
            base_version=base,
            device=device,
            lease_owner=self._owner,
            lease_until=now + timedelta(seconds=self._options.lease),
        )
        slots.hold(self._host, device, _place_of(row.pk), _bytes_of(base))
        process = EngineProcess(
            folder=self._folder / str(row.pk),
            spec={**self._options.engine, "device": device, "secret": row.secret, "drain": self._options.drain},
        )
        held = Held(row.pk, base.pk, device, process, launch=self._pool.submit(_launch, process, base.artifact))
        self._held[row.pk] = held
        return held

    def _advance(self, now: datetime) -> None:
        """Load what waits for an engine that is ready by now, and note what came of it."""
        ready = [held.row_id for held in self._held.values() if held.was_ready and not held.process.is_stopping]
        loading = Deployment.objects.filter(engine_id__in=ready, wanted=True, state=DeploymentState.LOADING)
        for deployment in loading.select_related("version__artifact", "version__model", "workspace"):
            held = self._held[cast(UUID, deployment.engine_id)]
            task = (deployment.pk, held.row_id)
            work = self._work.get(task)
            if work is None:
                artifact = deployment.version.artifact if deployment.version.is_adapter else None
                self._work[task] = self._pool.submit(_load, held.process, deployment.engine_model, artifact)
            elif work.done():
                del self._work[task]
                self._note(deployment, work.exception(), now)

    def _note(self, deployment: Deployment, error: BaseException | None, now: datetime) -> None:
        if error is None:
            moved = deployment.move(
                DeploymentState.HEALTHY, start=(DeploymentState.LOADING,), failure="", healthy_at=now, checked_at=now
            )
            if moved:
                log.info("%s is healthy", deployment)
                deployments.became_healthy(deployment)
                self._tell(deployment)
        elif not (isinstance(error, EngineRefused) and error.again):
            log.error("%s could not be loaded: %s", deployment, error)
            Deployment.objects.filter(pk=deployment.pk).update(engine=None)
            wait = _wait(deployment.failures + 1)
            self._move(deployment, DeploymentState.FAILED, failure=str(error), wait=wait)

    def _let_go(self, now: datetime) -> None:
        """Stop what nobody wants any more, once answers under way had their time."""
        unwanted = Deployment.objects.filter(wanted=False, target="local").exclude(state=DeploymentState.STOPPED)
        over = unwanted.filter(Q(drain_until=None) | Q(drain_until__lte=now))
        for deployment in over.select_related("engine", "version"):
            engine = deployment.engine
            held = self._held.get(engine.pk) if engine else None
            if held is None and engine is not None and _is_alive(engine, now):
                continue  # its own supervisor does it
            if held is not None and held.was_ready and deployment.version.is_adapter:
                self._pool.submit(held.process.unload, deployment.engine_model)
            deployment.move(DeploymentState.STOPPED, stopped_at=now)
            self._tell(deployment)

    def _stop_idle(self) -> None:
        """End engines that hold nothing anybody wants."""
        used = set(
            Deployment.objects.filter(engine_id__in=self._held)
            .exclude(state=DeploymentState.STOPPED)
            .values_list("engine_id", flat=True)
        )
        for held in self._held.values():
            if held.row_id not in used and held.launch.done():
                held.process.stop(self._options.drain)

    def _move(
        self, deployment: Deployment, to: DeploymentState, *, failure: str = "", wait: float = 0.0, count: bool = True
    ) -> None:
        retry_at = database_now() + timedelta(seconds=wait) if wait else None
        failures = deployment.failures + 1 if count else deployment.failures
        deployment.move(to, failure=failure, failures=failures, retry_at=retry_at)
        self._tell(deployment)

    def _tell(self, deployment: Deployment) -> None:
        live.publish(f"workspace.{deployment.workspace_id}", kind="deployment", id=str(deployment.pk))


ALIVE = (EngineState.STARTING, EngineState.READY)


def _is_alive(engine: Engine, now: datetime) -> bool:
    """Some supervisor vouches for it, by the database's clock."""
    return engine.state in ALIVE and engine.lease_until is not None and engine.lease_until > now


def _place_of(engine_id: UUID) -> str:
    """The name under which an engine holds its place on the device."""
    return f"engine {engine_id}"


def _bytes_of(base: ModelVersion) -> int:
    return int(base.facts.get("bytes") or base.artifact.size)


def _launch(process: EngineProcess, base: Any) -> None:
    process.spec["base"] = str(artifacts.local_path(base))
    process.start()


def _load(process: EngineProcess, name: str, adapter: Any) -> None:
    if adapter is not None:
        process.load(name, artifacts.local_path(adapter))
    process.probe(name)


def _wait(failures: int) -> float:
    """Seconds before the next try: none after the first failure in a while, then 2, 4, 8, …"""
    return min(2.0**failures, LONGEST_WAIT) if failures else 0.0


def database_now() -> datetime:
    """The database's clock: leases of several hosts can be compared by it only."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


@contextmanager
def _database_may_be_away() -> Iterator[None]:
    try:
        yield
    except OperationalError:
        log.exception("the database does not answer; engines go on")
        connection.close()
