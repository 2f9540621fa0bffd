"""Answers that people corrected become preference pairs: the correction is better than what it corrects."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from datasets_app.editing import meta_of, text_of, with_meta, with_row
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each
from datasets_app.shapes import BadRow, listed
from datasets_app.steps import convert
from project.contracts.chat import Message
from project.contracts.rows import PreferenceRow, PromptRow, TextRow

name = "edits_to_pairs"
label = "Turn corrected answers into pairs"


class Params(StepParams):
    example = {"column": "original"}

    column: str = Field(
        min_length=1,
        max_length=500,
        description="The column beside the row that holds the other version of the answer.",
    )
    holds: Literal["original", "edited"] = Field(
        default="original",
        description="What the column holds: the original, which the row's answer corrects; or the edited text, "
        "which corrects the row's answer.",
    )
    missing: Literal["drop", "fail"] = Field(
        default="drop", description="What happens to rows without the other version."
    )


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    for entry in each(rows, ctx, lambda entry: _paired(entry, params, ctx), field="column"):
        if not isinstance(entry.row, PreferenceRow):
            ctx.dropped(entry, "there is no other version")
        elif _same(entry.row):
            ctx.dropped(entry, "both versions are the same")
        else:
            yield entry


def _paired(entry: Entry, params: Params, ctx: StepContext) -> Entry:
    if isinstance(entry.row, PreferenceRow):
        raise BadRow("it is a pair already.")
    if isinstance(entry.row, TextRow | PromptRow):
        raise BadRow(f"a {entry.row.kind} row has no answer.")
    meta = meta_of(entry)
    other = meta.pop(params.column, None)
    if other is None or other == "":
        if params.missing == "fail":
            raise BadRow(f"there is no column '{params.column}' (found: {listed(list(meta))}).")
        return entry
    if not isinstance(other, str):
        raise BadRow(f"the column '{params.column}' holds no text.")
    prompt, _ = convert.divided(entry.row)
    mine = Message(role="assistant", content=text_of(entry, "answer"))
    theirs = Message(role="assistant", content=other)
    chosen, rejected = (mine, theirs) if params.holds == "original" else (theirs, mine)
    made = {"prompt": prompt, "chosen": (chosen,), "rejected": (rejected,), **convert.tools(entry.row)}
    return with_meta(with_row(entry, PreferenceRow.model_validate(made)), meta)


def _same(row: PreferenceRow) -> bool:
    return [m.content.strip() for m in row.chosen] == [m.content.strip() for m in row.rejected]
