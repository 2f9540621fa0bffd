"""Divide the rows into parts, such as train and test. Each part becomes a data set of its own."""

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from datasets_app.editing import meta_of, origin_of, text_of
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, key, seed_field, spilled
from datasets_app.shapes import listed

name = "split"
label = "Split into parts"

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,29}")
_MOST_ALONE = 0.5  # of the rows may have a label of their own, or a stratified split makes no sense


class Params(StepParams):
    example = {"parts": {"train": 0.5, "test": 0.5}}

    parts: dict[str, float] = Field(
        default={"train": 0.9, "test": 0.1},
        min_length=2,
        max_length=10,
        description="Names and shares that add up to 1, as in train = 0.9. The first part is to learn from, "
        "the others are held out.",
    )
    by: Literal["random", "stratified", "group", "time"] = Field(
        default="random",
        description="random: equal rows stay together. stratified: every label has its share in each part. group: rows "
        "with the same value of a column stay together. time: the earliest rows go to the first part.",
    )
    column: str = Field(
        default="",
        max_length=500,
        description="The column beside the row for group and time; for stratified the label, empty for the answer.",
    )
    seed: int | None = seed_field()

    @field_validator("parts", mode="before")
    @classmethod
    def _in_order(cls, parts: Any) -> Any:
        """Also [["train", 0.9], ["test", 0.1]]: a database may change the order of an object's names."""
        if isinstance(parts, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in parts):
            if len({str(name) for name, _ in parts}) < len(parts):
                raise ValueError("Two parts have the same name.")
            return {str(name): share for name, share in parts}
        return parts

    @field_serializer("parts", when_used="json")
    def _as_pairs(self, parts: dict[str, float]) -> list[tuple[str, float]]:
        return list(parts.items())

    @field_validator("parts")
    @classmethod
    def _make_one(cls, parts: dict[str, float]) -> dict[str, float]:
        for part, share in parts.items():
            if not _PART.fullmatch(part):
                raise ValueError(f"'{part[:40]}' is no name for a part: use up to 30 letters, digits, '-' and '_'.")
            if not 0 < share < 1:
                raise ValueError(f"The share of {part} has to be more than 0 and less than 1.")
        if abs(sum(parts.values()) - 1) > 1e-6:
            raise ValueError(f"The shares have to add up to 1; they make {sum(parts.values()):g}.")
        return parts

    @model_validator(mode="after")
    def _has_a_column(self) -> "Params":
        if self.by in ("group", "time") and not self.column:
            raise ValueError(f"Say which column to split by {self.by}.")
        return self


def parts(params: Params) -> list[str]:
    return list(params.parts)


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """Memory: about 40 bytes per row, and the different labels or groups; the rows wait on disk.

    Synthetic rows go where the row went that they were made from, if that is the first part, else nowhere.
    """
    seed = ctx.seed(params.seed)
    rule = _RULES[params.by](params, ctx, seed)
    spill = spilled(rows, ctx, rule.see)
    part_of = rule.decide()
    names = list(params.parts)
    for place, entry in enumerate(spill.read()):
        part = names[part_of[place]]
        if rule.machine_made[place] and part != names[0]:
            ctx.dropped(entry, "it was made from a held-out row")
            continue
        ctx.assigned(entry, part)
        if ctx.part in ("", part):
            yield entry
        else:
            ctx.dropped(entry, f"it goes to {part}")
    spill.drop()


class _Rule:
    """Sees every row once, then says for each place the number of its part."""

    def __init__(self, params: Params, ctx: StepContext, seed: str) -> None:
        self.params, self.ctx, self.seed = params, ctx, seed
        # Where one part ends and the next begins, as shares of all rows: [0.9] for 0.9 and 0.1.
        self.ends = list(accumulate(params.parts.values()))[:-1]
        self.machine_made = array("B")
        self.keys = array("Q")

    def see(self, entry: Entry) -> None:
        origin = origin_of(entry)
        self.machine_made.append(origin != entry.hash)
        self.keys.append(key(self.seed, origin))
        self.look(entry)

    def look(self, entry: Entry) -> None: ...

    def decide(self) -> Sequence[int]:
        return self.cut(range(len(self.keys)))

    def cut(self, places: Sequence[int]) -> "array[int]":
        """The parts of the rows at `places` by their keys: exactly the shares, but equal keys stay together."""
        values = sorted(self.keys[place] for place in places if not self.machine_made[place])
        borders = [_border(values, end) for end in self.ends]
        return array("B", (bisect_right(borders, self.keys[place]) for place in places))

    def column(self, entry: Entry) -> Any:
        """Raises what ends the run when the row has no such column."""
        meta = meta_of(entry)
        value = meta.get(self.params.column)
        if value is None:
            found = listed([column for column in meta if column != "synthetic"])
            self.ctx.fail(
                f"there is no column '{self.params.column}' beside it (found: {found}).", field="column", entry=entry
            )
        return value


def _border(values: Sequence[Any], end: float) -> Any:
    """The first value behind the border; something larger than all where everything is before it."""
    place = int(end * len(values) + 0.5)
    return values[place] if place < len(values) else 2**64


class _Stratified(_Rule):
    def __init__(self, params: Params, ctx: StepContext, seed: str) -> None:
        super().__init__(params, ctx, seed)
        self.labels: dict[int, int] = {}
        self.label_of = array("I")

    def look(self, entry: Entry) -> None:
        label = str(self.column(entry)) if self.params.column else text_of(entry, "answer")
        self.label_of.append(self.labels.setdefault(key("label", label), len(self.labels)))

    def decide(self) -> Sequence[int]:
        import numpy as np

        labels = np.frombuffer(self.label_of, dtype=np.uint32)
        if not len(labels):
            return []
        alone = int((np.bincount(labels) == 1).sum())
        if alone > max(len(labels) * _MOST_ALONE, 1) and not self.ctx.few:
            what = f"the column '{self.params.column}'" if self.params.column else "the answer"
            self.ctx.fail(
                f"{alone:,} of {len(labels):,} rows have {what} to themselves; there is nothing to share out evenly.",
                field="column" if self.params.column else "by",
                hint="Use by: random, or name a column with labels that occur more often.",
            )
        parts = np.zeros(len(labels), dtype=np.uint8)
        order = np.argsort(labels, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            parts[places] = self.cut([int(place) for place in places])
        return array("B", parts.tobytes())


class _Group(_Rule):
    """Whole groups in random order, until a part has its share of the rows."""

    def __init__(self, params: Params, ctx: StepContext, seed: str) -> None:
        super().__init__(params, ctx, seed)
        self.groups: dict[int, int] = {}
        self.sizes: list[int] = []
        self.group_of = array("I")

    def look(self, entry: Entry) -> None:
        group = self.groups.setdefault(key(self.seed, str(self.column(entry))), len(self.groups))
        self.group_of.append(group)
        if group == len(self.sizes):
            self.sizes.append(0)
        self.sizes[group] += 1

    def decide(self) -> Sequence[int]:
        parts = array("B", bytes(len(self.sizes)))
        before = 0
        for _, group in sorted(self.groups.items()):
            middle = (before + self.sizes[group] / 2) / len(self.group_of)
            parts[group] = bisect_right(self.ends, middle)
            before += self.sizes[group]
        return array("B", (parts[group] for group in self.group_of))


class _Time(_Rule):
    """Rows of the same moment stay together."""

    def __init__(self, params: Params, ctx: StepContext, seed: str) -> None:
        super().__init__(params, ctx, seed)
        self.times = array("d")

    def look(self, entry: Entry) -> None:
        value = self.column(entry)
        moment = moment_of(value)
        if moment is None:
            self.ctx.fail(
                f"{str(value)[:60]!r} is no time; use ISO 8601, as in 2026-11-21T10:00:00Z, or a number.",
                field="column",
                entry=entry,
            )
        self.times.append(moment)

    def decide(self) -> Sequence[int]:
        values = sorted(self.times)
        borders = [values[min(int(end * len(values) + 0.5), len(values) - 1)] for end in self.ends] if values else []
        return array("B", (bisect_right(borders, moment) for moment in self.times))


def moment_of(value: Any) -> float | None:
    """Seconds since 1970 of a time as ISO 8601 (without a zone: UTC); a number is taken as it is."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        try:
            return float(str(value))
        except ValueError:
            return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_RULES: dict[str, Callable[[Params, StepContext, str], _Rule]] = {
    "random": _Rule,
    "stratified": _Stratified,
    "group": _Group,
    "time": _Time,
}
