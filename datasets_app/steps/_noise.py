"""What the augmentation steps share."""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any, Protocol

from datasets_app.editing import change_texts, synthetic
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, chance
from datasets_app.shapes import BadRow


class Noise(Protocol):
    def __call__(self, text: str, random: Random) -> str: ...


def noisy_copies(params: Any, rows: Iterator[Entry], ctx: StepContext, noise: Noise) -> Iterator[Entry]:
    """The rows, each followed by its copies. `params` has `share`, `copies`, `part` and `seed`.

    What a row gets depends on the row and the seed, not on its place. A part of a split that is held out gets no
    copies: a model is measured on what people wrote. A copy that came out equal is left out.
    """
    seed = ctx.seed(params.seed)
    for entry in rows:
        yield entry
        random = chance(seed, ctx.step.type, entry.hash)
        if ctx.held_out or random.random() >= params.share:
            continue
        made = {entry.hash}
        for _ in range(params.copies):
            try:
                copy = change_texts(entry, partial(noise, random=random), params.part)
            except BadRow as error:
                ctx.fail(str(error), field="part", entry=entry)
            if copy.hash not in made:
                made.add(copy.hash)
                yield ctx.added(synthetic(copy, entry, ctx.step.type))
