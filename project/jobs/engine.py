"""The engine's process as its supervisor sees it: started apart, watched, stopped with everything it started."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from django.conf import settings

from project.contracts.chat import Endpoint
from project.contracts.runs import Recipe, RunSpec
from project.jobs.forked import Forked

if TYPE_CHECKING:
    from project.jobs.warming import WarmParent

KEPT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_HOME", "XDG_CACHE_HOME", "HF_HOME"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
KEPT_FOR_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "HF_ENDPOINT")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
LAST_WORD = 2.0  # seconds in which a warm parent tells how an engine ended, once it has
SECRETS = {  # what a recipe may ask for -> the setting that holds it
    name: name for name in ("HUGGINGFACE_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
}


def environment(recipe: Recipe | None) -> dict[str, str]:
    """What the engine may know: where programs are, how many threads. No database, no key, no token."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("TUNELOOP_EXTRA_")}
    path = [str(settings.BASE_DIR), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    kept |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}
    kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if getattr(recipe, "network", False):
        return kept | {name: os.environ[name] for name in KEPT_FOR_NETWORK if name in os.environ}
    return kept | OFFLINE


def secrets_of(recipe: Recipe | None) -> dict[str, str]:
    """The secrets that a recipe declares (`secrets = ("HUGGINGFACE_TOKEN",)`) and this installation has."""
    asked = getattr(recipe, "secrets", ())
    found = {name: getattr(settings, SECRETS[name], "") for name in asked if name in SECRETS}
    return {name: value for name, value in found.items() if value}


@dataclass(frozen=True)
class Ended:
    """How a process ended: an exit code, or the signal that killed it."""

    code: int | None
    signal: int | None


class Engine:
    """One engine process in a session and process group of its own. Its pid is also the group's.

    `process` is None for one that somebody else started: how it ended can't be seen then, only that it did.
    """

    def __init__(
        self, pid: int, created: float | None, process: "subprocess.Popen[bytes] | Forked | None" = None
    ) -> None:
        self._process = process
        self.pid, self.created = pid, created
        self._end = select.poll()
        self._end_descriptor = _pidfd(pid) if process or is_process(pid, created) else None
        if self._end_descriptor is not None:
            self._end.register(self._end_descriptor, select.POLLIN)

    @classmethod
    def of_run(cls, folder: Path, pid: int | None, created: float | None) -> "Engine":
        """The engine that was started for a run folder by a worker that died; it may have ended since."""
        pid, created = _recorded(folder, pid, created)
        return cls(pid or 0, created)

    @classmethod
    def start(
        cls,
        folder: Path,
        spec: RunSpec,
        recipe: Recipe | None,
        *,
        warm: "WarmParent | None" = None,
        endpoints: Mapping[str, Endpoint] | None = None,
    ) -> "Engine":
        """Write the spec and start an engine: forked from `warm` where that is ready and suits, else from nothing.

        `endpoints` have tokens, which go through a pipe that only a process started from nothing inherits.
        """
        partial = folder / "spec.json.partial"
        partial.write_text(spec.model_dump_json(indent=2))
        partial.rename(folder / "spec.json")
        beat(folder)
        forked = warm.fork(folder, spec, recipe) if warm and not endpoints else None
        if forked is not None and _begin(forked, folder):
            return cls(forked.pid, forked.created, forked)
        process = _start_cold(folder, recipe, endpoints or {})
        engine = cls(process.pid, created_at(process.pid), process)
        _record(folder, engine.pid, engine.created)
        return engine

    def ended(self) -> Ended | None:
        """None while the process runs."""
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            return Ended(None, -code) if code < 0 else Ended(code, None)
        if isinstance(self._process, Forked) and self._process.is_lost:
            self._process = None
        if self._process is None:
            return None if is_process(self.pid, self.created) else Ended(None, None)
        return None

    def wait(self, seconds: float) -> Ended | None:
        """Like `ended`, after waiting for at most `seconds`; costs nothing while it waits."""
        if self._end_descriptor is not None:
            if self._end.poll(seconds * 1000) and isinstance(self._process, Forked):
                self._process.wait(LAST_WORD)
        elif isinstance(self._process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        else:
            time.sleep(0 if self.ended() else seconds)
        return self.ended()

    def ask_to_stop(self) -> None:
        if self.ended() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> bool:
        """Kill the whole group and wait until it is gone; false if something survives ten seconds of that."""
        gone = kill_group(self.pid, self.created) if self.pid else True
        if isinstance(self._process, Forked):
            self._process.wait(LAST_WORD)
        elif self._process is not None:
            self._process.poll()
        if gone and self._end_descriptor is not None:
            os.close(self._end_descriptor)
            self._end_descriptor = None
        return gone


def _begin(forked: Forked, folder: Path) -> bool:
    """Let a forked engine run, once its folder says which process it is; false when it has died before."""
    _record(folder, forked.pid, forked.created)
    try:
        forked.begin()
    except OSError:
        forked.forget()
        return False
    return True


def _start_cold(folder: Path, recipe: Recipe | None, endpoints: Mapping[str, Endpoint]) -> "subprocess.Popen[bytes]":
    """`python -m project.runner`. Its output goes to log.txt, secrets through a pipe."""
    env = environment(recipe)
    with (folder / "log.txt").open("ab") as log, _pipe_with(secrets_of(recipe), endpoints, env) as descriptors:
        return subprocess.Popen(
            [sys.executable, "-m", "project.runner", str(folder)],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=descriptors,
        )


def _record(folder: Path, pid: int, created: float | None) -> None:
    (folder / "engine.json").write_text(json.dumps({"pid": pid, "created": created}))


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends (Linux 5.3); None elsewhere."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


@contextlib.contextmanager
def _pipe_with(
    secrets: Mapping[str, str], endpoints: Mapping[str, Endpoint], env: dict[str, str]
) -> Iterator[tuple[int, ...]]:
    """An inherited pipe that holds them as JSON; the environment names its number, not its content."""
    if not secrets and not endpoints:
        yield ()
        return
    clear = {
        name: {**endpoint.model_dump(mode="json"), "token": endpoint.token.get_secret_value()}
        for name, endpoint in endpoints.items()
    }
    reading, writing = os.pipe()
    try:
        os.write(
            writing, json.dumps({"secrets": dict(secrets), "endpoints": clear}).encode()
        )  # far below the pipe's 64 KiB: it does not block
        os.close(writing)
        env["TUNELOOP_SECRETS_FD"] = str(reading)
        yield (reading,)
    finally:
        os.close(reading)


def beat(folder: Path) -> None:
    """Tell the engine that somebody watches it."""
    (folder / "heartbeat").touch()


def created_at(pid: int) -> float | None:
    """When a process was created, in Unix seconds; None when there is none. With the pid it names one process."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_process(pid: int | None, created: float | None) -> bool:
    """Is the process with this pid still the one that was created then?"""
    if not pid or created is None:
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # it may end between two questions
        return False


def group_members(group: int, since: float | None) -> list[psutil.Process]:
    """The living processes of a process group, without those older than `since`: the number may be another's now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            member = os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
            if member and (since is None or process.create_time() >= since - 0.05):
                found.append(process)
    return found


def kill_group(group: int, since: float | None, *, patience: float = 10.0) -> bool:
    """SIGKILL every process of the group until none is left. False when some survive `patience` seconds."""
    deadline = time.monotonic() + patience
    while members := group_members(group, since):
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_run(folder: Path, pid: int | None, created: float | None) -> bool:
    """End whatever still runs for a run folder."""
    pid, created = _recorded(folder, pid, created)
    return kill_group(pid, created) if pid else True


def _recorded(folder: Path, pid: int | None, created: float | None) -> tuple[int | None, float | None]:
    """The engine's pid and creation time: what the database has, else what its folder says, else by command line."""
    if pid is None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            recorded = json.loads((folder / "engine.json").read_text())
            pid, created = recorded["pid"], recorded["created"]
    if pid is None:  # its supervisor died between the start and the note of it
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[-3:] == ["-m", "project.runner", str(folder)]:
                    pid, created = process.pid, process.create_time()
    return pid, created
