"""Rows of a preflight, token by token: which the model reads, which it learns, and which training would cut off."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from project.kernel import artifacts
from project.kernel.errors import NotReady, invalid
from training.answers import Slice
from training.engine.recipes.preflight import VIEWS
from training.models import Preflight
from training.models.preflights import FLAGS

MOST = 100  # rows of thousands of tokens at once
LONGEST_HEAD = 200  # bytes in which a line says everything but its tokens
Kind = Literal["context", "learned", "lost"]


@dataclass(frozen=True)
class RowView:
    """One row. `runs` are neighbouring tokens of one kind: (kind, the text of each token).

    `length` counts all its tokens, `learned` those the loss is taken over, `more` those beyond what is kept to be
    looked at. `flag` is a key of FLAGS, or empty; `reason` says why the chat template refuses it.
    """

    row: int
    length: int
    learned: int
    flag: str
    reason: str
    runs: list[tuple[Kind, list[str]]]
    more: int = 0

    @property
    def words(self) -> str:
        """What is wrong with it, as a sentence; empty when nothing is."""
        return FLAGS.get(self.flag, "")


def some(preflight: Preflight, *, flag: str = "", row: int | None = None, offset: int = 0, limit: int = 25) -> Slice:
    """Rows that can be looked at, in the order of the data set: all, those with one finding, or one by its number.

    Raises NotReady before the preflight has ended well, Invalid for an unknown finding.
    """
    if flag and flag not in FLAGS:
        raise invalid("flag", f"Use one of: {', '.join(FLAGS)}.")
    items: list[RowView] = []
    total = 0
    for line in _read(preflight):
        if flag and f'"flag": "{flag}"'.encode() not in line[:LONGEST_HEAD]:
            continue
        if row is not None and not line.startswith(f'{{"row": {row},'.encode()):
            continue
        if offset <= total < offset + min(limit, MOST):
            items.append(_view(json.loads(line)))
        total += 1
    return Slice(items, total)


def _read(preflight: Preflight) -> Iterator[bytes]:
    """Lines as the recipe wrote them: their number, length and finding come first."""
    if preflight.views is None:
        raise NotReady(f"This preflight is {preflight.state}; its rows can be looked at once it has succeeded.")
    with artifacts.open_file(preflight.views, VIEWS) as file:
        yield from file


def _view(view: dict[str, Any]) -> RowView:
    return RowView(**{**view, "runs": [(kind, texts) for kind, texts in view["runs"]]})
