"""Put what people corrected by hand in the place of single rows, or leave such rows out."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from datasets_app.editing import with_row
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each
from datasets_app.shapes import BadRow
from project.contracts.rows import ROW, Row

name = "correct"
label = "Correct rows by hand"
MOST = 1000  # rows


class Correction(BaseModel):
    """One row. `hash` is what the rows' page and API say; without a `number` all rows with this hash are meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    number: int | None = Field(default=None, ge=1)
    row: dict[str, Any] | None = Field(default=None, description="what takes its place; null leaves it out")

    @field_validator("row")
    @classmethod
    def _is_a_row(cls, row: dict[str, Any] | None) -> dict[str, Any] | None:
        if row is not None:
            ROW.validate_python(row)
        return row

    def fits(self, entry: Entry) -> bool:
        return self.number is None or self.number == entry.number


class Params(StepParams):
    example = {"rows": [{"hash": "0" * 64, "row": None}]}

    rows: list[Correction] = Field(
        min_length=1,
        max_length=MOST,
        description="A row's hash and what takes its place, as JSON; null leaves it out. "
        "The page of rows writes this: press Edit at a row.",
    )


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """A correction whose row is not there, because a step before changed it or the hash is another's, is noted."""
    unused = set(range(len(params.rows)))
    by_hash: dict[str, list[tuple[int, Correction, Row | None]]] = {}
    for place, correction in enumerate(params.rows):
        row = None if correction.row is None else ROW.validate_python(correction.row)
        by_hash.setdefault(correction.hash, []).append((place, correction, row))

    def change(entry: Entry) -> Entry | None:
        for place, correction, row in by_hash.get(entry.hash, ()):
            if correction.fits(entry):
                unused.discard(place)
                if row is not None and row.kind != entry.kind:
                    raise BadRow(f"a {entry.kind.value} row can't become a {row.kind.value} row by hand.")
                return None if row is None else with_row(entry, row)
        return entry

    yield from each(rows, ctx, change, field="rows", why="left out by hand")
    if unused and not ctx.few:
        ctx.note("corrections of rows that are not there", len(unused))
