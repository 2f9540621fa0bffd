"""Copies of rows in other letters: small ones, capitals, or mixed up."""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Literal

from pydantic import Field

from datasets_app.editing import Part
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, seed_field
from datasets_app.steps._noise import noisy_copies

name = "casing"
label = "Add copies in other letters"

Style = Literal["lower", "upper", "title", "swapped", "any"]


class Params(StepParams):
    example = {"style": "upper"}

    style: Style = Field(
        default="any", description="lower, upper, Title, swapped (single letters change), or any of them."
    )
    share: float = Field(default=1.0, gt=0, le=1, description="The share of rows that get copies.")
    copies: int = Field(default=1, ge=1, le=10, description="Copies per row.")
    part: Part = Field(default="prompt", description="Where the letters change: prompt, answer, system or all.")
    seed: int | None = seed_field()


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Every row stays; its copies follow it, marked as synthetic."""
    return noisy_copies(params, rows, ctx, partial(recased, style=params.style))


def recased(text: str, style: Style, random: Random) -> str:
    if style == "any":
        style = random.choice(("lower", "upper", "title", "swapped"))
    match style:
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "title":
            return text.title()
        case _:
            return "".join(letter.swapcase() if random.random() < 0.15 else letter for letter in text)
