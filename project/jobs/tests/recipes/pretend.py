"""Says everything a training says, and trains nothing."""

import math
import time
from typing import Literal

from pydantic import BaseModel, Field

from project.contracts.runs import RunContext, UserError

name = "pretend"
label = "Pretend training"
eats = ()
needs: Literal["device"] = "device"
charts = (("Loss", "loss,eval_loss", "Training,Held out"), ("Learning rate", "learning_rate", "Learning rate"))


class Params(BaseModel):
    steps: int = Field(default=60, ge=1)
    pause: float = Field(default=0.1, ge=0)
    fail_at: int = 0


def run(params: Params, ctx: RunContext) -> None:
    ctx.progress(0, 0, phase="load")
    ctx.log("Loaded 600 rows, 60 held out.")
    for step in range(1, params.steps + 1):
        ctx.check_stop()
        if step == params.fail_at:
            raise UserError(
                "The learning rate is too high: the loss is not a number any more.",
                field="learning_rate",
                hint="Use a tenth of it.",
            )
        time.sleep(params.pause)
        loss = 3 * math.exp(-step / 20) + 0.2 + 0.1 * math.sin(step)
        ctx.progress(step, params.steps, phase="train", epoch=3 * step / params.steps)
        ctx.metrics(step, loss=loss, learning_rate=2e-4 * (1 - step / params.steps), tokens_per_second=320.0 + step % 7)
        if step % 20 == 0:
            ctx.metrics(step, eval_loss=loss + 0.1)
            folder = ctx.checkpoints / f"step-{step}"
            folder.mkdir()
            ctx.checkpoint(step, folder, {"loss": loss, "eval_loss": loss + 0.1})
            ctx.sample(step, "My card has not arrived yet, what now?", "card_arrival", "card_arrival")
            ctx.log(f"Checkpoint at step {step}.", level="warning" if step == 40 else "info")
    (ctx.artifact / "weights.txt").write_text("none")
    ctx.done(artifact=True, steps=params.steps)
