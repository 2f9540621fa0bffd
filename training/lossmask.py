"""Rows of a preflight, token by token: which the model reads, which it learns, and which training would cut off."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from project.kernel import artifacts
from project.kernel.errors import NotReady, invalid
from training.answers import Slice
from training.engine.recipes.preflight import FLAGS, VIEWS
from training.models import Preflight

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
    found = [view for view in _read(preflight) if _fits(view, flag, row)]
    return Slice([_view(view) for view in islice(found, offset, offset + limit)], len(found))


def _read(preflight: Preflight) -> Iterator[dict[str, Any]]:
    if preflight.views is None:
        raise NotReady(f"This preflight is {preflight.state}; its rows can be looked at once it has succeeded.")
    with artifacts.open_file(preflight.views, VIEWS) as file:
        for line in file:
            yield json.loads(line)


def _fits(view: dict[str, Any], flag: str, row: int | None) -> bool:
    return (not flag or view["flag"] == flag) and (row is None or view["row"] == row)


def _view(view: dict[str, Any]) -> RowView:
    return RowView(**{**view, "runs": [(kind, texts) for kind, texts in view["runs"]]})
