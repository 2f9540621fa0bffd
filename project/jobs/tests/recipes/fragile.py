"""Counts like `count`, and fails in the ways a real training does: at a step, while it saves, on a full disk."""

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from project.contracts.runs import RunContext
from project.modeling import checkpoints

name = "fragile"
label = "Fragile"
eats = ()
needs: Literal["cpu"] = "cpu"
MIB = 2**20


class Params(BaseModel):
    steps: int = Field(default=5, ge=1)
    pause: float = Field(default=0.0, ge=0, description="seconds per step")
    checkpoint_every: int = Field(default=0, ge=0)
    checkpoint_bytes: int = Field(default=16, ge=0)
    result_bytes: int = Field(default=16, ge=0)
    slow_save: float = Field(default=0.0, ge=0, description="seconds per checkpoint, in which nobody listens")
    crash_at: int = Field(default=-1, description="the step at which it raises, every time; 0 is before the first")
    die_at: int = Field(default=-1, description="the step at which its process is killed, every time")
    full: Literal["", "events", "log"] = Field(default="", description="what can't be written from step 3 on")
    address_space: int = Field(default=0, description="bytes that it may map beyond what it has; 0: no limit")
    batch_size: int = Field(default=8, ge=1, description="64 MiB each, with torch, when there is a limit")


def smaller(params: Params) -> Params | None:
    half = params.batch_size // 2
    return params.model_copy(update={"batch_size": half}) if half else None


def run(params: Params, ctx: RunContext) -> None:
    first = 1
    if ctx.spec.resume_from:
        first = json.loads((Path(ctx.spec.resume_from) / "state.json").read_text())["step"] + 1
    _fail(params, 0)
    if params.address_space:
        _limit(params.address_space)
    for step in range(first, params.steps + 1):
        ctx.check_stop()
        time.sleep(params.pause)
        _fail(params, step)
        if params.full and step == 3:
            _fill_up(params.full, ctx)
        if params.address_space:
            _compute(params.batch_size)
        ctx.progress(step, params.steps)
        ctx.metrics(step, loss=1 / step)
        if params.checkpoint_every and step % params.checkpoint_every == 0:
            _save(params, ctx, step)
    (ctx.artifact / "attempt.txt").write_text(str(ctx.spec.attempt))
    (ctx.artifact / "result.bin").write_bytes(b"r" * params.result_bytes)
    ctx.done(artifact=True, counted=params.steps, batch_size=params.batch_size)


def _fail(params: Params, step: int) -> None:
    if step == params.crash_at:
        raise ZeroDivisionError("division by zero")
    if step == params.die_at:
        os.kill(os.getpid(), signal.SIGKILL)


def _limit(size: int) -> None:
    import torch

    torch.ones(8).sum()
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + size, mapped + size))


def _compute(batch_size: int) -> None:
    """A step's activations: what does not fit is refused by PyTorch's allocator."""
    import torch

    torch.empty(batch_size * 64 * MIB, dtype=torch.uint8)


def _fill_up(what: str, ctx: RunContext) -> None:
    """From now on the device under the run's own files has no space left: the kernel says so, nobody pretends."""
    full = os.open("/dev/full", os.O_WRONLY)
    descriptors = [1, 2] if what == "log" else [1, 2, ctx._file.fileno()]  # type: ignore[attr-defined]
    for descriptor in descriptors:
        os.dup2(full, descriptor)
    if what == "log":
        print("a line that does not fit", flush=True)


def _save(params: Params, ctx: RunContext, step: int) -> None:
    folder = ctx.folder / "tmp" / "state"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"w" * params.checkpoint_bytes)
    time.sleep(params.slow_save)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    ctx.checkpoint(step, checkpoints.commit(folder, ctx.checkpoints, step=step))
