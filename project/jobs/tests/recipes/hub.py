"""Declares a network and a secret."""

import os
from pathlib import Path

from pydantic import BaseModel

from project.contracts.runs import RunContext

name = "hub"
label = "Hub"
eats = ()
needs = "cpu"
network = True
secrets = ("HUGGINGFACE_TOKEN",)


class Params(BaseModel):
    pass


def run(params: Params, ctx: RunContext) -> None:
    token = os.environ.get("HUGGINGFACE_TOKEN", "")
    in_proc = token.encode() in Path("/proc/self/environ").read_bytes()
    ctx.done(token_length=len(token), in_proc=in_proc, offline="HF_HUB_OFFLINE" in os.environ)
