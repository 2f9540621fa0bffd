"""The recipe `prepare`: the rows of a version go through a list of steps and become another version's."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from datasets_app.checking import validation
from datasets_app.importing import Entry, teaches
from datasets_app.preparing import Preparation, parse, parts_of
from datasets_app.storage import FILE, RowsFile, count, entries
from project.contracts.rows import RowKind
from project.contracts.runs import RunContext, UserError

name = "prepare"
label = "Prepare rows"
eats: tuple[RowKind, ...] = ()
needs = "cpu"

PACKED = 4  # rows are about so many times as large as the file they are stored in
FORMAT = "prepared"  # what a version says instead of a file's format


class Params(BaseModel):
    """Which steps. `inputs` says which input of the job holds the rows of a data set that a step refers to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: list[dict[str, Any]] = Field(description='as in [{"type": "filter", "condition": "length > 10"}]')
    seed: int = Field(default=0, ge=0, le=2**53, description="same seed, same rows")
    part: str = Field(default="", max_length=40, description="the part of the split to keep; empty for all")
    inputs: dict[str, str] = Field(default={}, description="reference -> name of an input")
    source_name: str = Field(default="", max_length=255, description="the version it starts from")
    max_rows: int = Field(default=5_000_000, ge=1)

    @field_validator("steps")
    @classmethod
    def _are_understood(cls, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            parse(steps)
        except UserError as error:
            raise ValueError(str(error)) from None
        return steps


def run(params: Params, ctx: RunContext) -> None:
    steps = parse(params.steps)
    if params.part and params.part not in parts_of(steps):
        raise UserError(f"The steps make no part '{params.part}'.", field="part")
    source = ctx.input("source")
    total = count(source)
    read = 0

    def watched() -> Iterable[Entry]:
        nonlocal read
        for entry in entries(source):
            read += 1
            yield entry

    def look() -> None:
        ctx.check_stop()
        if read < total:
            ctx.progress(read, total, unit="row", phase="Reading")
        else:  # some steps give their first row when they have seen the last
            ctx.progress(file.rows, 0, unit="row", phase="Writing")

    def others(reference: str) -> Iterable[Entry]:
        if reference not in params.inputs:
            raise UserError(f"The rows of {reference} are not there.", field="steps")
        return entries(ctx.input(params.inputs[reference]))

    preparation = Preparation(
        steps,
        folder=ctx.folder / "tmp" / "steps",
        seed=params.seed,
        part=params.part,
        others=others,
        most_rows=params.max_rows,
        check_stop=look,
    )
    kind, taught = "", False
    with validation(PACKED * (source / FILE).stat().st_size) as checks:
        with RowsFile(ctx.artifact / FILE) as file:
            for number, entry in enumerate(preparation.rows(watched()), 1):
                entry = entry._replace(number=number, line=0)
                file.add(entry)
                checks.see(entry)
                kind, taught = kind or entry.kind.value, taught or teaches(entry)
        preparation.require_rows(file.rows, taught)
        ctx.progress(file.rows, file.rows, unit="row", phase="Writing")
        tallies = [tally.as_json() for tally in preparation.tallies]
        for tally in tallies:
            ctx.log(_sentence(tally))
        report = checks.report(
            [],
            0,
            format={"name": FORMAT, "evidence": f"prepared from {params.source_name}" if params.source_name else ""},
            shape={"name": kind, "label": ""},
            columns={"found": [], "mapped": {}},
            preparation={
                "from": params.source_name,
                "rows": total,
                "seed": params.seed,
                "part": params.part,
                "steps": tallies,
            },
        )
    (ctx.artifact / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1))
    ctx.done(artifact=True, **file.facts(), row_kind=kind, format=FORMAT)


def _sentence(tally: dict[str, Any]) -> str:
    counts = ", ".join(f"{tally[what]:,} {what}" for what in ("dropped", "changed", "added") if tally[what])
    return f"Step {tally['number']} ({tally['type']}): {tally['rows_in']:,} rows in, {tally['rows_out']:,} out" + (
        f" ({counts})" if counts else ""
    )
