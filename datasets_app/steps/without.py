"""Drop the rows that another data set has too, so that nothing a model is measured on is learned."""

from array import array
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, field_validator

from datasets_app.importing import Entry, given_key
from datasets_app.preparing import StepContext, StepParams
from datasets_app.steps.drop_duplicates import batches

name = "without"
label = "Drop what another data set has"
takes_rows = False


class Params(StepParams):
    data: str = Field(min_length=1, max_length=300, description="The other data set, as in intents-test:1.")
    by: Literal["prompt", "row"] = Field(
        default="prompt",
        description="What has to be the same: what is asked, whatever the answer (capitals and blanks make no "
        "difference), or the whole row.",
    )

    @field_validator("data")
    @classmethod
    def _is_named(cls, data: str) -> str:
        if not data.strip():
            raise ValueError("Name the data set, as in intents-test:1.")
        return data


def references(params: Params) -> list[str]:
    return [params.data]


def with_references(params: Params, names: Mapping[str, str]) -> Params:
    """The same, with the version that was meant."""
    return params.model_copy(update={"data": names[params.data]})


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Memory: 8 bytes per row of the other data set. Two rows are taken as equal by 64 bits, as leakage is counted."""
    import numpy as np

    others = np.unique(np.array(array("q", (_key(entry, params.by) for entry in ctx.other(params.data)))))
    why = f"{params.data} has it too" if params.by == "row" else f"{params.data} asks it too"
    for batch in batches(rows):
        keys = np.array([_key(entry, params.by) for entry in batch], dtype=np.int64)
        for entry, known in zip(batch, np.isin(keys, others).tolist(), strict=True):
            if known:
                ctx.dropped(entry, why)
            else:
                yield entry


def _key(entry: Entry, by: str) -> int:
    """64 bits of the question; of the whole row where it has none, or where that is asked for."""
    return given_key(entry.texts) if by == "prompt" else int.from_bytes(bytes.fromhex(entry.hash[:16]), signed=True)
