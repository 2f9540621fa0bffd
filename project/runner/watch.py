"""A thread beside the recipe: it watches the supervisor's heartbeat and samples what the process uses."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

import psutil

from project.runner.context import PROGRESS_INTERVAL, Context

SAMPLE_INTERVAL = 2.0  # seconds between two samples
STOP_GRACE = 90.0  # seconds a recipe has to save and stop after its supervisor fell silent


class Watch:
    """`with Watch(context, gpu=...)`: runs until the block is left.

    Samples are metrics at the current step: `system/cpu_percent` (100 = every core busy), `system/rss_bytes` (process
    and children), and on a GPU `system/gpu_percent` and `system/gpu_bytes` (what this process holds). A step that takes
    longer than two seconds has several.
    """

    def __init__(self, context: Context, *, gpu: str = "") -> None:
        self._context, self._gpu = context, gpu
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._cpu_seconds, self._cpu_at = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        heartbeat = Heartbeat(self._context)
        sample_at = time.monotonic()
        while not self._left.wait(PROGRESS_INTERVAL):
            with contextlib.suppress(OSError):  # a full disk: the recipe meets it too and says so properly
                heartbeat.look()
                self._context.flush_progress()
                if time.monotonic() >= sample_at:
                    sample_at = time.monotonic() + SAMPLE_INTERVAL
                    self._context.metrics(self._context.step, **self.sample())

    def sample(self) -> dict[str, float]:
        """What the process tree uses now; CPU since the last call."""
        rss, cpu_seconds = 0, 0.0
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                rss += process.memory_info().rss
                cpu_seconds += sum(process.cpu_times()[:2])
        now = time.monotonic()
        used = (cpu_seconds - self._cpu_seconds) / max(now - self._cpu_at, 1e-3) / (os.cpu_count() or 1)
        self._cpu_seconds, self._cpu_at = cpu_seconds, now
        percent = min(max(used * 100, 0.0), 100.0)
        return {"system/cpu_percent": percent, "system/rss_bytes": float(rss), **self._sample_gpu()}

    def _sample_gpu(self) -> dict[str, float]:
        if not self._gpu:
            return {}
        values: dict[str, float] = {}
        torch = sys.modules.get("torch")  # only once the recipe has imported it: our import would race with its own
        if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
            values["system/gpu_bytes"] = float(torch.cuda.memory_reserved())
        command = ["nvidia-smi", "-i", self._gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            values["system/gpu_percent"] = float(answer.stdout.strip())
        return values


class Heartbeat:
    """The supervisor touches `heartbeat`; if it falls silent for `silence_limit` seconds the run stops by itself.

    Only changes of the file's time count, measured by our own monotonic clock: the wall clock may jump.
    A recipe that then does not stop within STOP_GRACE is killed with its whole process group.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._path = context.folder / "heartbeat"
        self._seen = self._stamp()
        self._seen_at = time.monotonic()

    def look(self) -> None:
        limit = self._context.spec.silence_limit
        if limit <= 0:
            return
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen, self._seen_at = stamp, time.monotonic()
            return
        silence = time.monotonic() - self._seen_at
        if silence > limit + STOP_GRACE:
            _kill_own_group()
        if silence > limit and not self._context.stop_requested:
            self._context.request_stop()
            self._context.log(f"no heartbeat from the supervisor for {silence:.1f} s: stopping", level="warning")

    def _stamp(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0


def _kill_own_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
