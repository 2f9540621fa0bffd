"""Rename and drop the columns beside the rows, or make the rows anew from other columns."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from datasets_app import mapping
from datasets_app.editing import meta_of, with_meta, with_row
from datasets_app.importing import Entry
from datasets_app.mapping import Mapped
from datasets_app.preparing import StepContext, StepParams, each
from datasets_app.shapes import PARTS, BadRow, Parts, listed
from datasets_app.storage import SYNTHETIC
from project.contracts.rows import ROW
from project.contracts.runs import UserError

name = "columns"
label = "Map, rename or drop columns"


class Params(StepParams):
    example = {"rename": {"source": "from"}}

    rename: dict[str, str] = Field(
        default={}, max_length=100, description="Columns beside the row: old name = new name."
    )
    drop: list[str] = Field(default=[], max_length=100, description="Columns beside the row to leave out.")
    keep: list[str] = Field(
        default=[],
        max_length=100,
        description="Leave out all columns beside the row but these, and synthetic, which marks what a machine wrote.",
    )
    map: dict[str, str] = Field(
        default={},
        max_length=20,
        description="Make the rows anew: part = column, as in completion = label. Columns are those beside the row and "
        f"the row's own parts. Parts: {', '.join(PARTS)}.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> "Params":
        if not (self.rename or self.drop or self.keep or self.map):
            raise ValueError("Say what to rename, drop, keep or map.")
        if self.drop and self.keep:
            raise ValueError("Use drop or keep, not both.")
        if len(set(self.rename.values())) < len(self.rename):
            raise ValueError("rename gives two columns the same name.")
        if SYNTHETIC in (*self.rename, *self.rename.values(), *self.drop, *self.map.values()):
            raise ValueError(f"The column '{SYNTHETIC}' stays as it is: it keeps such rows out of what is held out.")
        return self


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    seen: set[str] = set()
    mapped: dict[tuple[str, ...], Mapped] = {}

    def change(entry: Entry) -> Entry:
        if params.map:
            entry = _made_anew(entry, params.map, mapped, ctx)
        meta = meta_of(entry)
        seen.update(meta)
        after = _renamed(meta, params)
        return entry if after == meta else with_meta(entry, after)

    yield from each(rows, ctx, change, field="map")
    for field, wanted in (("rename", list(params.rename)), ("drop", params.drop), ("keep", params.keep)):
        if missing := [column for column in wanted if column not in seen]:
            ctx.note(f"{field}: no row has the column '{missing[0]}' (found: {listed(sorted(seen))})")


def _renamed(meta: Mapping[str, Any], params: Params) -> dict[str, Any]:
    kept = {
        column: value
        for column, value in meta.items()
        if column not in params.drop and (not params.keep or column in (*params.keep, SYNTHETIC))
    }
    after = {column: value for column, value in kept.items() if column not in params.rename}
    return after | {params.rename[column]: value for column, value in kept.items() if column in params.rename}


def _made_anew(entry: Entry, wanted: dict[str, str], known: dict[tuple[str, ...], Mapped], ctx: StepContext) -> Entry:
    """The row made of other columns; parts and columns that are not used are kept beside it."""
    own = {part: value for part, value in _own_parts(entry).items() if value is not None}
    fields = meta_of(entry) | own
    columns = tuple(fields)
    if columns not in known:
        try:
            known[columns] = mapping.chosen(wanted, columns)
        except UserError as error:
            ctx.fail(str(error), field="map", entry=entry, hint=error.hint)
    parts = Parts(fields, known[columns].columns)
    try:
        row = ROW.validate_python(known[columns].shape.convert(parts))
    except ValueError as error:
        raise BadRow(str(error)) from None
    used = set(known[columns].columns.values())
    own_texts = {"text", "prompt", "completion", "messages", "chosen", "rejected", "label"}
    meta = {column: value for column, value in fields.items() if column not in used and column not in own_texts}
    left = {column: value for column, value in own.items() if column not in used}
    # What was a text of the row is not lost: it becomes a column.
    return with_meta(with_row(entry, row), {**meta, **left})


def _own_parts(entry: Entry) -> dict[str, Any]:
    plain = entry.row.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in plain.items() if name in PARTS}
