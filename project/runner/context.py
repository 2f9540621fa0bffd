"""What a recipe holds while it runs: its only way to the outside world, written to `events.jsonl`."""

import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from project.contracts.chat import Endpoint
from project.contracts.events import FINAL, Checkpoint, Done, Event, Log, Metrics, Progress, Resumed, Sample, Started
from project.contracts.runs import RunSpec, StopRequested, UserError

PROGRESS_INTERVAL = 0.25  # seconds: at most four progress lines per second, more would only be skipped by the reader


class Context:
    """A `RunContext` that appends one JSON line per event. Safe to call from several threads.

    Lines reach the operating system at once; checkpoints and the final event are synced to the disk, because somebody
    acts on them. Progress is limited to four lines per second, and the last one is never lost.
    """

    def __init__(self, folder: Path, spec: RunSpec, endpoints: Mapping[str, Endpoint] | None = None) -> None:
        self.folder, self.spec = folder, spec
        self._endpoints = dict(endpoints or {})
        self.step = 0
        self.last_checkpoint: str | None = None
        self.outcome: Done | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting: Progress | None = None
        self._progress_at = -math.inf
        self._progress_shape: tuple[int, str, str] | None = None
        self._undefined: set[str] = set()
        for name in ("artifact", "checkpoints", "tmp"):
            (folder / name).mkdir(exist_ok=True)
        self._file = (folder / "events.jsonl").open("ab", buffering=0)
        self._mend_last_line()

    def _mend_last_line(self) -> None:
        """A run folder used twice by hand may end in half a line: end it, or our first event would be lost with it."""
        path = self.folder / "events.jsonl"
        if path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    self._file.write(b"\n")

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Ask the recipe to stop at its next step. Called by the signal handler and by the heartbeat watch."""
        self._stop.set()

    def check_stop(self) -> None:
        if self._stop.is_set():
            raise StopRequested

    def input(self, name: str) -> Path:
        if name not in self.spec.inputs:
            known = ", ".join(sorted(self.spec.inputs)) or "none"
            raise UserError(f"The job has no input '{name}' (it has: {known}).", field=name)
        path = Path(self.spec.inputs[name])
        if not path.exists():
            raise UserError(f"The input '{name}' is gone: {path} does not exist on this host.", field=name)
        return path

    def endpoint(self, name: str) -> Endpoint:
        if name not in self._endpoints:
            raise UserError(f"The job was given no endpoint '{name}'.", field=name)
        return self._endpoints[name]

    def progress(
        self, step: int, total: int, *, unit: str = "step", phase: str = "", epoch: float | None = None
    ) -> None:
        event = Progress(at=time.time(), step=step, total=total, unit=unit, phase=phase, epoch=epoch)
        with self._lock:
            self.step = step
            self._waiting = event
            shape = (total, unit, phase)
            due = time.monotonic() - self._progress_at >= PROGRESS_INTERVAL
            if due or shape != self._progress_shape or step == total:
                self._write_waiting()
            self._progress_shape = shape

    def metrics(self, step: int, **values: float) -> None:
        """Append numbers at `step`. JSON has no infinity: a value that is not finite is left out and said once."""
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        for key in values.keys() - finite.keys() - self._undefined:
            self._undefined.add(key)
            self.log(f"{key} is {values[key]} at step {step}; such values are not recorded", level="warning")
        if finite:
            self.emit(Metrics(at=time.time(), step=step, values=finite))

    def log(self, message: str, *, level: Literal["info", "warning", "error"] = "info") -> None:
        self.emit(Log(at=time.time(), level=level, message=message))

    def sample(self, step: int, prompt: str, answer: str, reference: str = "") -> None:
        self.emit(Sample(at=time.time(), step=step, prompt=prompt, answer=answer, reference=reference))

    def checkpoint(self, step: int, path: Path, metrics: dict[str, float] | None = None) -> None:
        """Announce a committed checkpoint below the run's folder. Raises ValueError if `path` lies elsewhere."""
        relative = str(path.resolve().relative_to(self.folder.resolve()))
        finite = {key: value for key, value in (metrics or {}).items() if math.isfinite(value)}
        self.emit(Checkpoint(at=time.time(), step=step, path=relative, metrics=finite))
        self.last_checkpoint = relative

    def resumed(self, step: int, differences: Sequence[str] = ()) -> None:
        self.emit(Resumed(at=time.time(), step=step, differences=tuple(differences)))

    def done(self, *, artifact: bool = False, **result: Any) -> None:
        """Say that the work is finished; the event is written when `run` returns, so nothing can follow it.

        Raises ValueError if `result` is not JSON, if the artifact folder is empty, or if it was said before.
        """
        if self.outcome is not None:
            raise ValueError("done() was called twice")
        if artifact and not any(self.artifact.iterdir()):
            raise ValueError("done(artifact=True) with an empty artifact folder")
        event = Done(at=time.time(), result=result, artifact="artifact" if artifact else None)
        event.model_dump_json()
        self.outcome = event

    def started(self, device: str, versions: dict[str, str]) -> None:
        self.emit(Started(at=time.time(), pid=os.getpid(), device=device, versions=versions))

    def emit(self, event: Event) -> None:
        """Append one event; before a checkpoint and the end also the progress that was held back."""
        with self._lock:
            if isinstance(event, (Checkpoint, *FINAL)):
                self._write_waiting()
            self._write(event)

    def flush_progress(self) -> None:
        """Write the progress that the rate limit held back, if it is due by now."""
        with self._lock:
            if time.monotonic() - self._progress_at >= PROGRESS_INTERVAL:
                self._write_waiting()

    def _write_waiting(self) -> None:
        if self._waiting is not None:
            event, self._waiting = self._waiting, None
            self._progress_at = time.monotonic()
            self._write(event)

    def _write(self, event: Event) -> None:
        line = event.model_dump_json().encode() + b"\n"
        while line:  # an unbuffered file may take less than it was given
            line = line[self._file.write(line) :]
        if isinstance(event, (Checkpoint, *FINAL)):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
