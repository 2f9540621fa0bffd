"""Divide the rows into parts, such as train and test. Each part becomes a data set of its own."""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from datasets_app.editing import made_from, meta_of, origin_of, text_of
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
        description="random: equal rows stay together. stratified: every label has its share in each part, the first "
        "part some of each. group: rows with the same value of a column stay together. time: the earliest rows go to "
        "the first part.",
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
    """Memory: about 100 bytes per row, and the different labels or groups; the rows wait on disk.

    A synthetic row goes where the row went that it was made from, if that is the first part, else nowhere. Where what
    it was made from is no row here (a document), it is a row like any other, beside those made from the same.
    """
    seed = ctx.seed(params.seed)
    rule = _RULES[params.by](params, ctx, seed)
    spill = spilled(rows, ctx, rule.see)
    part_of, follows = rule.judge()
    names = list(params.parts)
    for place, entry in enumerate(spill.read()):
        part = names[part_of[place]]
        if follows[place] and part != names[0]:
            ctx.dropped(entry, "it was made from a held-out row")
            continue
        ctx.assigned(entry, part)
        if ctx.part in ("", part):
            yield entry
        else:
            ctx.dropped(entry, f"it goes to {part}")
    spill.drop()


class _Rule:
    """Sees every row once, then says for each place the number of its part.

    Rows that are equal now, or of one origin, are a family: `family` has the number of each row's, `keys` its random
    key, the same for all of a family. `follows` are the copies of rows that are here.
    """

    def __init__(self, params: Params, ctx: StepContext, seed: str) -> None:
        self.params, self.ctx, self.seed = params, ctx, seed
        # Where one part ends and the next begins, as shares of all rows: [0.9] for 0.9 and 0.1.
        self.ends = list(accumulate(params.parts.values()))[:-1]
        self._made = array("B")
        self._own, self._origins = array("Q"), array("Q")
        self.family: Any = None
        self.keys: Any = None
        self.follows: Any = None

    def see(self, entry: Entry) -> None:
        self._made.append(bool(made_from(entry)))
        self._own.append(key(self.seed, entry.hash))
        self._origins.append(key(self.seed, origin_of(entry)))
        self.look(entry)

    def look(self, entry: Entry) -> None: ...

    def judge(self) -> tuple[Sequence[int], Sequence[int]]:
        """For each place the number of its part, and whether the row is the copy of another one here."""
        import numpy as np

        if not self._own:
            return [], []
        own, origins = (np.frombuffer(keys, dtype=np.uint64) for keys in (self._own, self._origins))
        made = np.frombuffer(self._made, dtype=np.bool_)
        self.family, self.keys = families(own, origins)
        count = int(self.family.max()) + 1
        has_own = np.zeros(count, dtype=np.bool_)
        has_own[self.family[~made]] = True
        self.follows = made & has_own[self.family]
        parts = np.array(self.decide(), dtype=np.uint8)
        # By time or group a row may be in two parts: its copies go with the one that is held out.
        last = np.zeros(count, dtype=np.uint8)
        np.maximum.at(last, self.family[~made], parts[~made])
        parts[self.follows] = last[self.family[self.follows]]
        return array("B", parts.tobytes()), array("B", self.follows.tobytes())

    def decide(self) -> Sequence[int]:
        return self.cut(range(len(self.keys)))

    def cut(self, places: Sequence[int], left: list[float] | None = None) -> "array[int]":
        """The parts of the rows at `places` by their keys: the shares, exactly but that equal keys stay together.

        `left` is for many short cuts: what rounding has left over of each share so far, which the next cut makes up
        for. Then a single row is to learn from, and of several at least one.
        """
        keys = [int(self.keys[place]) for place in places]
        values = sorted(value for place, value in zip(places, keys, strict=True) if not self.follows[place])
        borders: list[int] = []
        for number, end in enumerate(self.ends):
            exact = end * len(values) + (0.5 if left is None else left[number])
            least = 0 if left is None else 1
            borders.append(max([_border(values, max(int(exact), least)), *borders]))
            if left is not None and len(values) > 1:
                left[number] = min(max(exact - bisect_left(values, borders[-1]), 0), 1)
        return array("B", (bisect_right(borders, value) for value in keys))

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


def _border(values: Sequence[int], place: int) -> int:
    """The first value behind the border at this place; something larger than all where everything is before it.

    Equal values that the border would part go to the side where more of them are, but no side is left empty by it.
    """
    if place >= len(values):
        return 2**64
    first, after = bisect_left(values, values[place]), bisect_right(values, values[place])
    if first < place and (not first or (place - first > after - place and after < len(values))):
        place = after
    return values[place] if place < len(values) else 2**64


def families(own: Any, origins: Any) -> tuple[Any, Any]:
    """The number of each row's family, and a key that all of it share: the origin of its first row.

    Two rows are of one family when they have a key in common, or both have one in common with a third. `own` and
    `origins` are two keys per row (uint64).
    """
    import numpy as np

    known, places = np.unique(np.concatenate([own, origins]), return_inverse=True)
    mine, from_ = places.reshape(2, -1)
    leader = np.arange(len(known))  # of each key: a smaller one of its family, in the end the smallest
    while True:
        least = np.minimum(leader[mine], leader[from_])
        before = leader.copy()
        for side in (mine, from_):
            np.minimum.at(leader, before[side], least)
            np.minimum.at(leader, side, least)
        leader = leader[leader]
        if np.array_equal(leader, before):
            break
    _, first, family = np.unique(leader[mine], return_index=True, return_inverse=True)
    return family.reshape(-1), origins[first][family.reshape(-1)]


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

        labels = self._of_families()
        counted = labels[~self.follows]
        alone = int((np.bincount(counted) == 1).sum())
        if alone > max(len(counted) * _MOST_ALONE, 1) and not self.ctx.few:
            what = f"the column '{self.params.column}'" if self.params.column else "the answer"
            self.ctx.fail(
                f"{alone:,} of {len(counted):,} rows have {what} to themselves; there is nothing to share out evenly.",
                field="column" if self.params.column else "by",
                hint="Use by: random, or name a column with labels that occur more often.",
            )
        parts = np.zeros(len(labels), dtype=np.uint8)
        order = np.argsort(labels, kind="stable")
        left = [0.5] * len(self.ends)  # or all labels of four rows would be rounded away from a tenth
        for places in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            parts[places] = self.cut([int(place) for place in places], left)
        return array("B", parts.tobytes())

    def _of_families(self) -> Any:
        """The label of each row's family: that of its first row which is no copy."""
        import numpy as np

        labels = np.frombuffer(self.label_of, dtype=np.uint32)
        found, first = np.unique(self.family[~self.follows], return_index=True)  # every family has such a row
        return labels[~self.follows][first][np.searchsorted(found, self.family)]


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
        values = sorted(moment for moment, follows in zip(self.times, self.follows, strict=True) if not follows)
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
