"""Needs one input."""

from pydantic import BaseModel

from project.contracts.runs import RunContext

name = "reads"
label = "Reads"
eats = ()
needs = "cpu"


class Params(BaseModel):
    pass


def run(params: Params, ctx: RunContext) -> None:
    ctx.done(size=ctx.input("data").stat().st_size)
