"""A recipe without a model: it counts, writes checkpoints, and resumes. Found through TUNELOOP_EXTRA_RECIPES."""

import json
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from project.contracts.runs import RunContext
from project.modeling import checkpoints

name = "count"
label = "Count"
eats = ()
needs = "cpu"


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = Field(default=5, ge=1, le=1_000_000)
    pause: float = Field(default=0.0, ge=0, description="seconds per step")
    checkpoint_every: int = Field(default=0, ge=0)
    keep_checkpoints: int = Field(default=0, ge=0, description="0: all")
    seed: int = 0


def run(params: Params, ctx: RunContext) -> None:
    first = 1
    if ctx.spec.resume_from:
        first = json.loads((Path(ctx.spec.resume_from) / "state.json").read_text())["step"] + 1
    for step in range(first, params.steps + 1):
        ctx.check_stop()
        time.sleep(params.pause)
        ctx.progress(step, params.steps)
        ctx.metrics(step, loss=1 / step)
        if params.checkpoint_every and step % params.checkpoint_every == 0:
            folder = ctx.folder / "tmp" / "state"
            folder.mkdir(parents=True)
            (folder / "state.json").write_text(json.dumps({"step": step}))
            numbers = {"loss": 1 / step}
            ctx.checkpoint(step, checkpoints.commit(folder, ctx.checkpoints, step=step, metrics=numbers), numbers)
            if params.keep_checkpoints:
                checkpoints.prune(ctx.checkpoints, keep=params.keep_checkpoints)
    (ctx.artifact / "count.txt").write_text(str(params.steps))
    (ctx.artifact / "attempt.txt").write_text(str(ctx.spec.attempt))
    ctx.done(artifact=True, counted=params.steps)
