"""Bring the rows into a random order."""

from collections.abc import Iterator

from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, chance, seed_field

name = "shuffle"
label = "Shuffle"

_PILES = 64
_SMALL = 4096  # rows, and bytes below, that are shuffled in memory
_SMALL_BYTES = 16 * 1024**2


class Params(StepParams):
    example = {"seed": 7}

    seed: int | None = seed_field()


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Every order is equally likely. Memory: a 64th of the rows, which lie on disk in random piles."""
    random = chance(ctx.seed(params.seed), "shuffle")
    held: list[Entry] = []
    size = 0
    for entry in rows:
        held.append(entry)
        size += len(entry.data) + len(entry.meta)
        if len(held) > _SMALL or size > _SMALL_BYTES:
            break
    else:
        random.shuffle(held)
        yield from held
        return
    piles = [ctx.spill() for _ in range(_PILES)]
    for entry in held:
        piles[random.randrange(_PILES)].add(entry)
    held = []
    for entry in rows:
        piles[random.randrange(_PILES)].add(entry)
    for pile in piles:
        pile.close()
    for pile in piles:
        held = list(pile.read())
        pile.drop()
        random.shuffle(held)
        yield from held
