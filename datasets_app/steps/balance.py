"""Keep at most so many rows of each label, so that a frequent one does not drown the others."""

from array import array
from collections.abc import Iterator

from pydantic import Field

from datasets_app.editing import meta_of, text_of
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, flags, key, seed_field, spilled
from project.contracts.rows import UnpairedRow

name = "balance"
label = "Keep so many rows of each label"


class Params(StepParams):
    example = {"rows": 2}

    rows: int = Field(ge=1, description="The most rows of one label. Which ones is decided by chance.")
    column: str = Field(
        default="", max_length=500, description="The column beside the row that has the label; empty for the answer."
    )
    seed: int | None = seed_field()


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Memory: 17 bytes per row, and the different labels; the rows wait on disk and keep their order."""
    seed = ctx.seed(params.seed)
    known: dict[int, int] = {}
    labels, keys = array("Q"), array("Q")

    def see(entry: Entry) -> None:
        labels.append(known.setdefault(key("label", _label(entry, params, ctx)), len(known)))
        keys.append(key(seed, f"{len(keys)}|{entry.hash}"))

    spill = spilled(rows, ctx, see)
    kept = flags(len(spill), _chosen(labels, keys, params.rows))
    for place, entry in enumerate(spill.read()):
        if kept[place]:
            yield entry
        else:
            ctx.dropped(entry, f"its label has more than {params.rows:,} rows")
    spill.drop()


def _label(entry: Entry, params: Params, ctx: StepContext) -> str:
    """The column's value; else the answer, of a row with a thumb the thumb."""
    if params.column:
        meta = meta_of(entry)
        if params.column not in meta:
            ctx.fail(f"there is no column '{params.column}'.", field="column", entry=entry)
        return str(meta[params.column])
    if isinstance(entry.row, UnpairedRow):
        return "good" if entry.row.label else "bad"
    return text_of(entry, "answer")


def _chosen(labels: "array[int]", keys: "array[int]", most: int) -> Iterator[int]:
    """The places of the `most` smallest keys of each label."""
    import numpy as np

    if not labels:
        return
    label = np.frombuffer(labels, dtype=np.uint64)
    order = np.lexsort((np.frombuffer(keys, dtype=np.uint64), label))
    ordered = label[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    rank = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
    yield from order[rank < most].tolist()
