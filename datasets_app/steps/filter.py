"""Keep the rows for which a condition is true."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from datasets_app.editing import values_of
from datasets_app.expressions import parse
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each

name = "filter"
label = "Keep rows that …"


class Params(StepParams):
    example = {"condition": "length > 10"}

    condition: str = Field(
        max_length=2000,
        description='For example: length > 10, or: answer != "" and not matches(prompt, "https?://"). '
        "Names are length, text, prompt, answer, system, turns, meta.column and others.",
    )
    keep: Literal["matching", "others"] = Field(
        default="matching", description="Keep the rows for which it is true, or all others."
    )

    @field_validator("condition")
    @classmethod
    def _is_understood(cls, text: str) -> str:
        parse(text)
        return text


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    condition = parse(params.condition)
    wanted = params.keep == "matching"

    def judge(entry: Entry) -> Entry | None:
        return entry if condition.holds(values_of(entry)) == wanted else None

    why = "the condition is false" if wanted else "the condition is true"
    return each(rows, ctx, judge, field="condition", why=why)
