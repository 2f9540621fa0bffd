"""A recipe that fails in every way a recipe can. Found through TUNELOOP_EXTRA_RECIPES."""

import errno
import sys
import threading
import time
from typing import Literal

from pydantic import BaseModel

from project.contracts.runs import RunContext, UserError

name = "misbehave"
label = "Misbehave"
eats = ()
needs = "cpu"


class Params(BaseModel):
    how: Literal[
        "user error",
        "crash",
        "device memory",
        "host memory",
        "disk full",
        "exit",
        "no result",
        "thread",
        "deaf",
        "not finite",
    ]


def run(params: Params, ctx: RunContext) -> None:
    match params.how:
        case "user error":
            raise UserError("The data set is empty.", hint="Import some rows.", field="data.dataset")
        case "crash":
            raise ZeroDivisionError("division by zero\nsecond line")
        case "device memory":
            import torch

            torch.empty(1 << 60, dtype=torch.uint8)
        case "host memory":
            raise MemoryError
        case "disk full":
            raise RuntimeError("while saving") from OSError(errno.ENOSPC, "No space left on device")
        case "exit":
            sys.exit(3)
        case "thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
            ctx.done()
        case "deaf":
            time.sleep(600)
        case "not finite":
            ctx.metrics(1, loss=float("nan"), lr=0.5)
            ctx.metrics(2, loss=float("inf"))
            ctx.done()
