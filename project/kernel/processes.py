"""Child processes of one command: started apart, restarted when they die, their words prefixed, none left behind."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PAUSES = (0.5, 1, 2, 5, 10, 30)  # seconds before the first, second, … restart in a row
STEADY = 60.0  # seconds after which a child counts as healthy again
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def settle() -> None:
    """Call once a long-lived process has loaded what it needs: collections of garbage pass over all that from then on.

    A collection otherwise looks at every object of Django and of us, which took a third of the time in which a worker
    takes in numbers.
    """
    gc.collect()
    gc.freeze()


def _end_with_parent() -> None:
    """Runs in the child before exec: the kernel sends SIGTERM when the thread that started it is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One program to keep alive. `patience` is how many seconds it may take to stop."""

    name: str
    command: Sequence[str]
    patience: float = 10.0
    pass_fds: tuple[int, ...] = ()
    restarts: int = 0
    words: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    process: "subprocess.Popen[str] | None" = None
    started_at: float = 0.0
    start_again_at: float = 0.0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None


class Children:
    """Use from one thread: the kernel ties a child's life to the thread that started it."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self.all: list[Child] = []

    def start(self, child: Child) -> None:
        if child not in self.all:
            self.all.append(child)
        child.process = subprocess.Popen(
            list(child.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,  # Ctrl-C in the terminal reaches us only, and we stop them in order
            pass_fds=child.pass_fds,
            preexec_fn=_end_with_parent,
        )
        child.started_at = time.monotonic()
        threading.Thread(target=self._read, args=(child, child.process), daemon=True).start()

    def _read(self, child: Child, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            if line.strip():
                child.words.append(line.rstrip())
                self._say(child.name, line.rstrip())

    def look(self) -> list[Child]:
        """Start again what has died, after a pause that grows; returns what died since the last look."""
        now = time.monotonic()
        died = []
        for child in self.all:
            if child.process is None:
                if now >= child.start_again_at:
                    self.start(child)
            elif (code := child.process.poll()) is not None:
                if now - child.started_at > STEADY:
                    child.restarts = 0
                pause = PAUSES[min(child.restarts, len(PAUSES) - 1)]
                child.restarts += 1
                child.process = None
                child.start_again_at = now + pause
                died.append(child)
                self._say(child.name, f"ended with {_how(code)}; it is started again in {pause:g} s")
        return died

    def stop(self, *, hurry: Callable[[], bool] = lambda: False) -> list[str]:
        """Ask all to stop, kill what does not in its time (or at once when `hurry()`); returns who was killed."""
        begun = time.monotonic()
        running = [child for child in self.all if child.pid is not None]
        for child in running:
            _signal(child, signal.SIGTERM)
        killed = []
        while running:
            for child in list(running):
                if child.pid is None:
                    running.remove(child)
                elif hurry() or time.monotonic() - begun > child.patience:
                    killed.append(child.name)
                    _signal_group(child, signal.SIGKILL)
                    if child.process:
                        child.process.wait()
            time.sleep(0.05)
        for child in self.all:
            _signal_group(child, signal.SIGKILL)  # what a child started and forgot
        return killed


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"


def _signal(child: Child, number: int) -> None:
    if child.process and child.process.poll() is None:
        child.process.send_signal(number)


def _signal_group(child: Child, number: int) -> None:
    if child.process is not None:
        try:
            os.killpg(child.process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
