"""The worker's warm parent: it has imported torch and the like, and engines forked from it start at once."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from django.conf import settings

from project.contracts.runs import Recipe, RunSpec
from project.jobs.engine import environment, secrets_of
from project.jobs.forked import Forked, is_readable, receive
from project.runner.process import thread_variables

log = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for a fork, which takes hundredths; then the engine starts cold
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds between a death of the parent and the next one
LONGEST_PATH = 512  # of a run folder that `ps` can show in full


class WarmParent:
    """`tend` it now and then: it starts the process, and again when that died. `fork` may be called by any thread."""

    def __init__(self) -> None:
        self._environment = environment(None) | thread_variables(settings.ENGINE_THREADS)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready: dict[str, object] | None = None
        self._start_at, self._pause = 0.0, FIRST_PAUSE

    @staticmethod
    def is_wanted(queues: list[str]) -> bool:
        """Only jobs that compute have anything to gain; pidfd and /proc are Linux's."""
        return settings.WARM_ENGINES and "gpu" in queues and sys.platform == "linux" and hasattr(os, "pidfd_open")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def is_ready(self) -> bool:
        with self._lock:
            return self._facts() is not None

    def tend(self) -> None:
        """Start the process if there is none, after a pause that doubles with every death."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                log.warning("the warm parent of engines ended with code %s", self._process.returncode)
                self._forget()
            if self._process is None and time.monotonic() >= self._start_at:
                self._start_at = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._start()

    def stop(self) -> None:
        """End it. Engines that it forked go on."""
        with self._lock:
            if self._process is not None:
                self._process.kill()  # it has nothing to lose
                self._process.wait()
                self._forget()

    def fork(self, folder: Path, spec: RunSpec, recipe: Recipe | None) -> Forked | None:
        """An engine for a run folder that waits for `begin`; None when it has to start cold."""
        if recipe is None or recipe.needs != "device" or not self._suits(spec, recipe):
            return None
        with self._lock:
            control, facts = self._control, self._facts()
            if control is None or facts is None or (spec.device != "cpu" and not facts["gpu"]):
                return None
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, contextlib.suppress(OSError):
                control.settimeout(PATIENCE)
                socket.send_fds(control, [os.fsencode(folder)], [theirs.fileno()])
        told = receive(ours) if is_readable(ours, PATIENCE) else {}
        if "pid" not in told:
            log.warning("the warm parent forked no engine; starting one without it")
            ours.close()
            return None
        self._pause = FIRST_PAUSE
        return Forked(int(str(told["pid"])), float(str(told["created"])), ours)

    def _suits(self, spec: RunSpec, recipe: Recipe) -> bool:
        """Would an engine of its own have the same environment?"""
        return environment(recipe) | thread_variables(spec.threads) == self._environment and not secrets_of(recipe)

    def _facts(self) -> dict[str, object] | None:
        """What the parent said of itself when it was ready; None until then."""
        if self._ready is None and self._control is not None and is_readable(self._control, 0):
            self._ready = receive(self._control) or None
        return self._ready

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "project.runner.warm", str(theirs.fileno()), " " * LONGEST_PATH]
        with theirs:
            self._process = subprocess.Popen(
                command,
                cwd=settings.RUNS_PATH,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._control = ours

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        self._process = self._control = self._ready = None
