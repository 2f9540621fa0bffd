"""A recipe that needs memory: too much at its first batch size, enough at a smaller one. It can hold a lot, too."""

import json
import os
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from project.contracts.events import FailureClass
from project.contracts.runs import Remedy, RunContext
from project.modeling import checkpoints

name = "eats"
label = "Eat memory"
eats = ()
needs: Literal["cpu"] = "cpu"


class Params(BaseModel):
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=1, ge=1)
    fits: int = Field(default=2, description="the largest batch that the device can hold")
    fails_at: int = Field(default=3, description="the step that needs more than the device has")
    steps: int = 6
    hold: int = Field(default=0, description="bytes held for a while, in each of its processes")
    hold_per_row: int = Field(default=0, description="bytes held for each row of a batch")
    processes: int = 1


def smaller(params: Params) -> Params | None:
    half = params.batch_size // 2
    changes = {"batch_size": half, "accumulation": params.accumulation * 2}
    return params.model_copy(update=changes) if half else None


def remedies(params: Params, failure: FailureClass, field: str) -> list[Remedy]:
    return [Remedy("less", "Retry with less of it", params.model_copy(update={"fits": 1}))]


def disk_bytes(params: Params, inputs: dict[str, int]) -> int:
    return params.hold


def _touched(size: int) -> bytearray:
    held = bytearray(size)
    for index in range(0, size, 4096):
        held[index] = 1
    return held


def run(params: Params, ctx: RunContext) -> None:
    first = 1
    if ctx.spec.resume_from:
        first = json.loads((Path(ctx.spec.resume_from) / "state.json").read_text())["step"] + 1
    if params.hold_per_row:
        time.sleep(1.0)  # a step that begins after its supervisor has looked
    held = _touched(params.hold + params.hold_per_row * params.batch_size)
    for _ in range(params.processes - 1):
        if os.fork() == 0:
            held = _touched(params.hold)
            time.sleep(600)
    for step in range(first, params.steps + 1):
        ctx.check_stop()
        if step >= params.fails_at and params.batch_size > params.fits:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        ctx.progress(step, params.steps)
        ctx.metrics(step, rows=float(params.batch_size * params.accumulation))
        folder = ctx.folder / "tmp" / "state"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": step}))
        ctx.checkpoint(step, checkpoints.commit(folder, ctx.checkpoints, step=step))
    while params.hold:
        ctx.check_stop()
        time.sleep(0.05)
    del held
    ctx.done(batch_size=params.batch_size, accumulation=params.accumulation)
