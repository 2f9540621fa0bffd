"""Keep the first of rows that are almost the same, by MinHash."""

from array import array
from collections.abc import Iterator

from pydantic import Field

from datasets_app.editing import Part, text_of
from datasets_app.importing import Entry
from datasets_app.near import BYTES_A_TEXT, THRESHOLD, NearDuplicates
from datasets_app.preparing import StepContext, StepParams, spilled
from datasets_app.steps._standins import StandIns

name = "near_duplicates"
label = "Drop near duplicates"

_BYTES_A_ROW = 2 * BYTES_A_TEXT + 160  # the signatures are copied once, then sorted band by band; 590 were measured


class Params(StepParams):
    example = {"threshold": 0.9}

    threshold: float = Field(
        default=THRESHOLD,
        ge=0.5,
        le=1,
        description="How similar: 1 is the same but for capitals and blanks, 0.85 a word or a number changed.",
    )
    part: Part = Field(default="all", description="Compare all of a row, or only its prompt or answer.")
    memory_mb: int = Field(
        default=1024, ge=16, le=1024 * 1024, description="The memory it may take: 1 MB is enough for about 1,600 rows."
    )


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Memory: 640 bytes per row, whatever their length. The rows wait on disk. Copies of a dropped row follow the one
    that stays.
    """
    most = params.memory_mb * 1024**2 // _BYTES_A_ROW
    index = NearDuplicates(params.threshold)

    def see(entry: Entry) -> None:
        if len(index) >= most:
            ctx.fail(
                f"More than {most:,} rows can't be compared in {params.memory_mb:,} MB.",
                field="memory_mb",
                hint="Allow more memory, or filter or sample the rows first.",
            )
        index.add(text_of(entry, params.part))

    spill = spilled(rows, ctx, see)
    stays = _standing(len(spill), index)
    stand_ins = StandIns(ctx)
    for place, entry in enumerate(spill.read()):
        if stays[place] == place:
            if stand_ins.kept(entry, place):
                yield entry
        else:
            stand_ins.dropped(entry, stays[place])
            ctx.dropped(entry, "an earlier row is almost the same")
    spill.drop()
    yield from stand_ins.rest()


def _standing(count: int, index: NearDuplicates) -> "array[int]":
    """For each place that of the row which stays for it: its own, or the first in a chain of similar ones."""
    stays = array("Q", range(count))
    for later, earlier, _ in index.repeats():  # in order of the later
        stays[later] = stays[earlier]
    return stays
