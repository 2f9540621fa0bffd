"""Asks an endpoint one question, and looks where its token could be seen."""

import os
import subprocess
from pathlib import Path

from pydantic import BaseModel

from project.contracts.chat import Message
from project.contracts.runs import RunContext
from project.modeling.asking import Asking

name = "calls"
label = "Call an endpoint"
eats = ()
needs = "device"  # such recipes may be forked from a warm parent, which would have no pipe


class Params(BaseModel):
    pass


def run(params: Params, ctx: RunContext) -> None:
    endpoint = ctx.endpoint("writer")
    token = endpoint.token.get_secret_value()
    with Asking(endpoint) as asking:
        answer = asking.ask([Message(role="user", content="Are you there?")], max_tokens=3, temperature=0).text
    child = subprocess.run(["env"], capture_output=True, check=True).stdout.decode()
    here = Path("/proc/self")
    seen = [repr(endpoint), repr(dict(os.environ)), child, *(repr(path.read_bytes()) for path in _readable(here))]
    ctx.log(f"asked {endpoint}")
    ctx.done(answer=answer, length=len(token), shown=any(token in text for text in seen))


def _readable(here: Path) -> list[Path]:
    return [here / "environ", here / "cmdline"]
