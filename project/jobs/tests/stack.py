"""A data folder, a database and real worker processes of a test's own, which its ORM talks to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from project import env
from project.jobs.actions import jobs
from project.jobs.models import Job, JobAttempt
from project.kernel.access import Actor
from project.kernel.models import Workspace

ROOT = Path(__file__).resolve().parents[3]
LEASE, BEAT, SWEEP = 3.0, 0.5, 0.5  # seconds
RECIPES = "project.runner.tests.recipes,project.jobs.tests.recipes"


@dataclass
class Stack:
    """Where everything of one test lies, and how its processes are started."""

    data: Path
    database_url: str = ""
    redis_url: str = ""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        return {
            **clean,
            "DATA_PATH": str(self.data),
            "TUNELOOP_EXTRA_RECIPES": RECIPES,
            "JOB_LEASE": str(LEASE),
            "JOB_BEAT": str(BEAT),
            "JOB_SWEEP": str(SWEEP),
            "JOB_GRACE": "5",
            "JOB_STOP_TIMEOUT": "2",
            "LOG_LEVEL": "INFO",
            **({"DATABASE_URL": self.database_url} if self.database_url else {}),
            **({"REDIS_URL": self.redis_url} if self.redis_url else {}),
            **more,
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        return self._open([sys.executable, "-m", *arguments], environment)

    def _open(self, command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        log = (self.data / f"process-{len(self.processes)}.log").open("ab")
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment(**environment), stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        self.processes.append(process)
        return process

    def worker(self, queues: str = "cpu", **environment: str) -> "subprocess.Popen[bytes]":
        name = f"w{len(self.processes)}@%h"
        return self.start("celery", *_APP, "worker", "-Q", queues, "-n", name, **environment)

    def beat(self) -> "subprocess.Popen[bytes]":
        return self.start("celery", *_APP, "beat")

    def manage(self, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        return self._open([sys.executable, "manage.py", *arguments], environment)

    def ring(self, job: Job, times: int = 1) -> None:
        """Send the message that says `job` waits."""
        broker = self.redis_url or "filesystem://"
        folder = str(self.data / "broker" / "queue")
        options = {"data_folder_in": folder, "data_folder_out": folder}
        app = Celery(broker=broker, set_as_current=False)
        app.conf.broker_transport_options = {} if self.redis_url else options
        for _ in range(times):
            app.send_task("jobs.run_job", args=[str(job.pk)], queue=job.queue, ignore_result=True)
        app.close()

    def launch(
        self, recipe: str = "count", *, start: bool = True, limits: Mapping[str, int] = {}, **params: Any
    ) -> Job:
        workspace = Workspace.objects.get_or_create(slug="acme", defaults={"name": "Acme"})[0]
        by = Actor.system("test", workspace)
        return jobs.launch(
            recipe, params, workspace=workspace, by=by, title=f"{recipe} {params}", start=start, **limits
        )

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.data.glob("process-*.log")))

    def living(self) -> "list[subprocess.Popen[bytes]]":
        """What was started here and still runs."""
        return [process for process in self.processes if process.poll() is None]

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                with_children = [process, *children_of(process.pid)]
                for each in with_children:
                    _quietly(each.send_signal, signal.SIGCONT)
                    _quietly(each.kill)
                process.wait(10)
        for running in processes_below(self.data):
            _quietly(running.kill)


_APP = ("-A", "project.celery", "-q")


def children_of(pid: int) -> list[psutil.Process]:
    """What the process has started, and what that has started."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _quietly(call: Callable[..., object], *arguments: object) -> None:
    with suppress(psutil.Error, ProcessLookupError):
        call(*arguments)


def engines_in(folder: Path) -> list[psutil.Process]:
    """Living engine processes whose run folder lies below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()  # a zombie has none
            if "project.runner" in line and any(part.startswith(str(folder)) for part in line):
                found.append(process)
        except psutil.Error:
            continue
    return found


def processes_below(folder: Path) -> list[psutil.Process]:
    """Living processes that have to do with `folder`: by their command line, place or environment. Not this one."""
    found, name = [], str(folder)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()  # a zombie has none
            if words and process.pid != os.getpid():
                words = [*words, process.cwd(), process.environ().get("DATA_PATH", "")]
                if any(word.startswith(name) for word in words):
                    found.append(process)
    return found


def until(condition: Callable[[], Any], what: str = "", seconds: float = 60) -> Any:
    """Wait for something to become true; fails with `what` when it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def ended(job: Job, seconds: float = 60) -> Job:
    """`job` once it is terminal."""
    until(lambda: Job.objects.get(pk=job.pk).is_terminal, f"the end of {job}", seconds)
    return Job.objects.get(pk=job.pk)


def stepping(job: Job, step: int = 1, attempt: int = 1) -> JobAttempt:
    """The running attempt of `job`, once its engine has come to `step`."""
    rows = Job.objects.filter(pk=job.pk, state="running", step__gte=step, attempt=attempt)
    until(rows.exists, f"step {step} of attempt {attempt} of {job}")
    return JobAttempt.objects.get(job=job, number=attempt)


@contextmanager
def connected(stack: Stack) -> Iterator[None]:
    """Let the ORM of this thread talk to the stack's database, and this process know the stack's folders."""
    own = connections["default"]
    default: dict[str, Any] = {**settings.DATABASES["default"], "NAME": str(stack.data / "db.sqlite3")}
    if own.vendor == "postgresql":
        default = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(stack.data / "db.sqlite3"),
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    os.environ["STACK_DATABASE_URL"] = stack.database_url
    config = {**own.settings_dict, **env.database("STACK_DATABASE_URL", default)}
    _config.clear()
    _config.update(config)
    connection: BaseDatabaseWrapper = _wrapper(config)
    connections["default"] = connection
    try:
        yield
    finally:
        connection.close()
        connections["default"] = own


@contextmanager
def own_connection() -> Iterator[None]:
    """Let a thread beside the test's own talk to the same database; `connected` reaches one thread only."""
    connection = _wrapper(_config)
    connections["default"] = connection
    try:
        yield
    finally:
        connection.close()


_config: dict[str, Any] = {}


def _wrapper(config: dict[str, Any]) -> BaseDatabaseWrapper:
    from importlib import import_module

    module = import_module(f"{config['ENGINE']}.base")
    wrapper: BaseDatabaseWrapper = module.DatabaseWrapper({**config, "TIME_ZONE": None}, alias="default")
    return wrapper
