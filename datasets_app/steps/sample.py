"""Keep some rows, by chance or from the beginning."""

from array import array
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, flags, key, seed_field, spilled

name = "sample"
label = "Keep some of the rows"

_WHY = "not in the sample"


class Params(StepParams):
    example = {"rows": 3}

    rows: int | None = Field(default=None, ge=1, description="How many rows; all, if there are fewer.")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="Which share instead: 0.1 is a tenth.")
    method: Literal["random", "first"] = Field(
        default="random", description="By chance, in their order; or the first ones."
    )
    seed: int | None = seed_field()

    @model_validator(mode="after")
    def _one_of_them(self) -> "Params":
        if (self.rows is None) == (self.fraction is None):
            raise ValueError("Say how many rows, or which fraction: one of them.")
        return self


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Memory: 9 bytes per row; the rows wait on disk, except for the first so many."""
    if params.method == "first" and params.rows is not None:
        yield from _first(rows, params.rows, ctx)
        return
    seed = ctx.seed(params.seed)
    keys = array("Q")
    spill = spilled(rows, ctx, lambda entry: keys.append(key(seed, f"{len(keys)}|{entry.hash}")))
    wanted = params.rows if params.rows is not None else int(len(spill) * (params.fraction or 0) + 0.5)
    chosen = range(wanted) if params.method == "first" else _smallest(keys, wanted)
    kept = flags(len(spill), (place for place in chosen if place < len(spill)))
    for place, entry in enumerate(spill.read()):
        if kept[place]:
            yield entry
        else:
            ctx.dropped(entry, _WHY)
    spill.drop()


def _first(rows: Iterator[Entry], wanted: int, ctx: StepContext) -> Iterator[Entry]:
    for place, entry in enumerate(rows):
        if place < wanted:
            yield entry
        else:
            ctx.dropped(entry, _WHY)


def _smallest(keys: "array[int]", wanted: int) -> list[int]:
    """The places of the smallest keys."""
    import numpy as np

    if not keys:
        return []
    found = np.argsort(np.frombuffer(keys, dtype=np.uint64), kind="stable")[:wanted]
    return [int(place) for place in found]
