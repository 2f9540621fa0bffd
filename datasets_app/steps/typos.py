"""Copies of rows with typing mistakes, so that a model understands people who type fast."""

from collections.abc import Iterator
from functools import partial
from random import Random

from pydantic import Field

from datasets_app.editing import Part
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, seed_field
from datasets_app.steps._noise import noisy_copies

name = "typos"
label = "Add copies with typing mistakes"

_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """The keys around each letter on a QWERTY keyboard."""
    found: dict[str, str] = {}
    for line, letters in enumerate(_KEYS):
        for place, letter in enumerate(letters):
            around = (keys[max(place - 1, 0) : place + 2] for keys in _KEYS[max(line - 1, 0) : line + 2])
            found[letter] = "".join(around).replace(letter, "")
    return found


_NEIGHBOURS = _neighbours()


class Params(StepParams):
    example = {"rate": 0.2}

    rate: float = Field(default=0.05, gt=0, le=0.5, description="The share of letters that get a mistake.")
    share: float = Field(default=1.0, gt=0, le=1, description="The share of rows that get copies.")
    copies: int = Field(default=1, ge=1, le=10, description="Copies per row.")
    part: Part = Field(default="prompt", description="Where the mistakes are: prompt, answer, system or all.")
    seed: int | None = seed_field()


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Every row stays; its copies follow it, marked as synthetic."""
    return noisy_copies(params, rows, ctx, partial(mistyped, rate=params.rate))


def mistyped(text: str, rate: float, random: Random) -> str:
    """Letters exchanged, left out, doubled, or hit beside; numbers and signs stay."""
    written: list[str] = []
    place = 0
    while place < len(text):
        letter = text[place]
        if not letter.isalpha() or random.random() >= rate:
            written.append(letter)
            place += 1
            continue
        follower = text[place + 1 : place + 2]
        match random.randrange(4):
            case 0 if follower.isalpha():
                written += [follower, letter]
                place += 1
            case 1:
                pass
            case 2:
                written += [letter, letter]
            case _:
                written.append(_beside(letter, random))
        place += 1
    return "".join(written)


def _beside(letter: str, random: Random) -> str:
    near = _NEIGHBOURS.get(letter.lower(), "")
    if not near:  # a letter of another keyboard: hit twice
        return letter * 2
    hit = random.choice(near)
    return hit.upper() if letter.isupper() else hit
