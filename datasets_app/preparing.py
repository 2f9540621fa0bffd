"""A declared list of preparation steps, run over the rows of a version as one stream. Pure.

A step is one module in `datasets_app/steps/` (or named by an entry point `tuneloop.steps`) with `name`, `label`, its
parameters `Params` (a `StepParams`, whose fields have descriptions) and `run(params, rows, ctx)`, which takes the rows
and yields rows. Same rows, same parameters and same seed give the same result. A step that needs all rows before it
gives the first keeps them on disk (`ctx.spill()`). It may also have

- `references(params)`: other data sets it reads (`ctx.other(reference)`), and `with_references(params, names)`,
- `takes_rows = False`: rows of those never get into the result; it only compares with them,
- `parts(params)`: the parts it divides the rows into; the run keeps those of `ctx.part`.
"""

import hashlib
import json
import random
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets_app.expressions import BadExpression, BadValue
from datasets_app.importing import Entry
from datasets_app.shapes import BadRow
from project.contracts.plugins import Plugins, UnknownPlugin
from project.contracts.runs import UserError

MOST_STEPS = 50
_LOOK_EVERY = 256  # rows between two looks at the stop flag
_LONGEST_VALUE = 200_000  # characters of a list of steps as JSON
_NUL_OR_HALF = re.compile("[\0\ud800-\udfff]")
_UNSTORABLE = "It holds the character NUL (U+0000) or half a character, which can't be stored."


class StepParams(BaseModel):
    """The parameters of a step. `example` are some with which it works, for help and tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    example: ClassVar[Mapping[str, Any]] = {}


def seed_field() -> Any:
    """For steps with chance in them."""
    return Field(default=None, ge=0, le=2**53, description="Same seed, same result. Empty: the preparation's seed.")


class StepPlugin(Protocol):
    name: str
    label: str
    Params: type[StepParams]

    def run(self, params: Any, rows: Iterator[Entry], ctx: "StepContext") -> Iterator[Entry]: ...


STEPS: Plugins[StepPlugin] = Plugins(
    kind="step", group="tuneloop.steps", packages=("datasets_app.steps",), required=("label", "Params", "run")
)


class StepError(UserError):
    """What is wrong with a step: 'Step 3 (filter), condition: …'. `field` is 'steps.2.condition', counted from 0."""

    def __init__(self, number: int, type_: str, message: str, *, field: str = "", hint: str = "") -> None:
        where = f"Step {number} ({type_})" if type_ else f"Step {number}"
        where = f"{where}, {field}" if field else where
        self.number, self.message, self.step_field = number, message, field
        super().__init__(
            f"{where}: {message}", hint=hint, field=f"steps.{number - 1}.{field}" if field else f"steps.{number - 1}"
        )


class StepErrors(UserError):
    """All that is wrong with a list of steps before it runs."""

    def __init__(self, errors: Sequence[StepError]) -> None:
        self.errors = list(errors)
        super().__init__(" ".join(str(error) for error in errors), field=errors[0].field)

    def by_field(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for error in self.errors:
            found.setdefault(error.field, []).append(f"{error} {error.hint}".strip())
        return found


@dataclass(frozen=True)
class Step:
    """One step of a list, its parameters checked. `number` counts from 1."""

    number: int
    plugin: StepPlugin
    params: StepParams

    @property
    def type(self) -> str:
        return self.plugin.name

    @property
    def label(self) -> str:
        return self.plugin.label

    def as_json(self) -> dict[str, Any]:
        """The step as it is stored: what was not said is left out. Where order matters, it is in lists."""
        return {"type": self.type, **self.params.model_dump(mode="json", exclude_unset=True)}

    def references(self) -> list[str]:
        read = getattr(self.plugin, "references", None)
        return list(read(self.params)) if read else []

    def takes_rows(self) -> bool:
        """May rows of the data sets it reads be in the result? If they are held out, the result is too."""
        return bool(getattr(self.plugin, "takes_rows", True))

    def with_references(self, names: Mapping[str, str]) -> "Step":
        """The step with other names for the data sets it reads."""
        rename = getattr(self.plugin, "with_references", None)
        return replace(self, params=rename(self.params, names)) if rename and self.references() else self

    def parts(self) -> list[str]:
        read = getattr(self.plugin, "parts", None)
        return list(read(self.params)) if read else []


# What a model has to write is a job of its own, before or after the steps: type -> the method that does it.
ELSEWHERE = {"paraphrase": "paraphrase", "back_translation": "back_translation", "augment": "paraphrase"}
AUGMENT = "/api/v1/synthetic-data/augment/"


def _elsewhere(type_: str) -> str:
    return (
        f"'{type_}' needs a model that writes, so it is a job of its own and no step. Send POST {AUGMENT} "
        f'{{"dataset": …, "method": "{ELSEWHERE[type_]}", "endpoint" or "model": …}}, or choose Data sets → Write with '
        "a model → In other words; the version that it makes can be prepared further."
    )


# Other names for a step with some of its parameters: {"type": "lowercase"} is a transform.
def _aliases() -> dict[str, dict[str, Any]]:
    from datasets_app.steps import transform

    return {
        operation: {"type": "transform", "operation": operation}
        for operation in transform.OPERATIONS
        if operation not in STEPS.names()
    }


def parse(value: Any) -> list[Step]:
    """Steps from what people write: a list of objects with `type`. Raises StepErrors that name number and field."""
    if isinstance(value, dict) and set(value) == {"steps"}:  # a file may have them under that key
        value = value["steps"]
    if not isinstance(value, list):
        raise UserError('Write the steps as a list, like [{"type": "drop_duplicates"}].', field="steps")
    if not value:
        raise UserError("Add at least one step.", field="steps")
    if len(value) > MOST_STEPS:
        raise UserError(f"There are {len(value):,} steps; at most {MOST_STEPS} are done at once.", field="steps")
    if len(json.dumps(value, default=str, ensure_ascii=False)) > _LONGEST_VALUE:
        raise UserError(f"The steps have more than {_LONGEST_VALUE:,} characters.", field="steps")
    steps: list[Step] = []
    errors: list[StepError] = []
    for number, given in enumerate(value, 1):
        try:
            steps.append(_step(number, given))
        except StepErrors as error:
            errors += error.errors
    splits = [step for step in steps if step.parts()]
    errors += [StepError(step.number, step.type, "Only one step may split the rows.") for step in splits[1:]]
    if errors:
        raise StepErrors(errors)
    return steps


def parts_of(steps: Sequence[Step]) -> list[str]:
    """The parts of the step that splits; empty without one. The first is to learn from, the others are held out."""
    return next((parts for step in steps if (parts := step.parts())), [])


def _step(number: int, given: Any) -> Step:
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise StepErrors([StepError(number, "", 'Write an object with a type, like {"type": "drop_duplicates"}.')])
    params = {name: value for name, value in given.items() if name != "type"}
    if wrong := [name for name, value in params.items() if _unstorable(name) or _unstorable(value)]:
        raise StepErrors([StepError(number, given["type"][:40], _UNSTORABLE, field=_said(wrong[0]))])
    if given["type"] in ELSEWHERE and given["type"] not in STEPS.names():
        raise StepErrors([StepError(number, given["type"], _elsewhere(given["type"]), field="type")])
    alias = _aliases().get(given["type"])
    type_ = alias["type"] if alias else given["type"]
    try:
        plugin = STEPS.get(type_)
    except UnknownPlugin as error:
        raise StepErrors([StepError(number, "", str(error), field="type")]) from None
    if alias:
        params = {**{name: value for name, value in alias.items() if name != "type"}, **params}
    try:
        return Step(number, plugin, plugin.Params.model_validate(params))
    except ValidationError as error:
        raise StepErrors([_field_error(number, plugin, problem) for problem in error.errors()]) from None


def _unstorable(value: Any) -> bool:
    """Does a text in it hold what PostgreSQL keeps in no JSON: the character NUL, or half a character?"""
    if isinstance(value, str):
        return _NUL_OR_HALF.search(value) is not None
    if isinstance(value, dict):
        return any(_unstorable(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(_unstorable, value))


def _said(name: str) -> str:
    return _NUL_OR_HALF.sub("?", name)[:60]


def _field_error(number: int, plugin: StepPlugin, problem: Mapping[str, Any]) -> StepError:
    name = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = ", ".join(plugin.Params.model_fields) or "none"
        message = f"There is no such parameter. Known: {known}."
    elif problem["type"] == "missing":
        message = "This is needed."
    return StepError(number, plugin.name, message, field=name)


# --- what a step holds while it runs


@dataclass
class Tally:
    """What one step did. Counts of rows; `why` counts the reasons of dropped ones."""

    number: int
    type: str
    rows_in: int = 0
    rows_out: int = 0
    dropped: int = 0
    changed: int = 0
    added: int = 0
    why: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "type": self.type,
            **{name: getattr(self, name) for name in ("rows_in", "rows_out", "dropped", "changed", "added")},
            "why": dict(self.why.most_common(20)),
            "notes": dict(self.notes.most_common(20)),
        }


class Observer:
    """Is told what happens to rows; a preview remembers it. Does nothing by itself."""

    def dropped(self, step: Step, entry: Entry, why: str) -> None: ...

    def assigned(self, step: Step, entry: Entry, part: str) -> None: ...


Others = Callable[[str], Iterable[Entry]]


class StepContext:
    """What a step may use: chance by seed, room on disk, other data sets; and what it tells."""

    def __init__(
        self,
        step: Step,
        *,
        seed: int,
        part: str,
        parts: Sequence[str],
        folder: Path,
        others: Others,
        observer: Observer,
        few: bool,
    ) -> None:
        self.step, self.part, self.parts, self.few = step, part, parts, few
        self.tally = Tally(step.number, step.type)
        self._seed, self._folder, self._others, self._observer = seed, folder, others, observer
        self._spills = 0

    @property
    def number(self) -> int:
        return self.step.number

    @property
    def held_out(self) -> bool:
        """Are these rows a part that models are measured on? Such a part gets no synthetic rows.

        Before the split no rows are: what comes to it is the same for every part, or the parts would overlap.
        """
        return bool(self.part and self.parts) and self.part != self.parts[0]

    def seed(self, own: int | None) -> str:
        """What chance starts from: the step's own seed, else the preparation's and the place of the step."""
        return f"{own}" if own is not None else f"{self._seed}.{self.number}"

    def dropped(self, entry: Entry, why: str) -> None:
        self.tally.dropped += 1
        self.tally.why[why] += 1
        self._observer.dropped(self.step, entry, why)

    def changed(self, before: Entry, after: Entry) -> Entry:
        """`after`, counted when it differs."""
        if before.hash != after.hash or before.meta != after.meta:
            self.tally.changed += 1
        return after

    def added(self, entry: Entry) -> Entry:
        self.tally.added += 1
        return entry

    def assigned(self, entry: Entry, part: str) -> None:
        """Say which part of a split a row goes to."""
        self.tally.notes[part] += 1
        self._observer.assigned(self.step, entry, part)

    def note(self, what: str, count: int = 1) -> None:
        self.tally.notes[what] += count

    def other(self, reference: str) -> Iterable[Entry]:
        """The rows of another data set that `references` names; may be asked for again to begin anew."""
        return self._others(reference)

    def spill(self) -> "Spill":
        """Room for rows on disk, gone after the run."""
        self._spills += 1
        return Spill(self._folder / f"step-{self.number}-{self._spills}.zst")

    def path(self, name: str) -> Path:
        """A file of the step's own. Its folder is there once something is spilled; make it otherwise, and clean up."""
        return self._folder / f"step-{self.number}-{name}"

    def fail(self, message: str, *, field: str = "", entry: Entry | None = None, hint: str = "") -> NoReturn:
        """End the run as the user's mistake, naming the step, the field and the row."""
        raise StepError(self.number, self.step.type, f"{_at(entry)}{message}", field=field, hint=hint)


def _at(entry: Entry | None) -> str:
    return f"row {entry.number:,}: " if entry is not None and entry.number else ""


def each(
    rows: Iterable[Entry], ctx: StepContext, change: Callable[[Entry], Entry | None], *, field: str, why: str = ""
) -> Iterator[Entry]:
    """Rows one by one: `change` gives the row, another one, or None to drop it (for the reason `why`).

    BadValue, BadRow and BadExpression from `change` end the run, naming the row and `field`.
    """
    for entry in rows:
        try:
            after = change(entry)
        except (BadValue, BadRow, BadExpression) as error:
            ctx.fail(str(error), field=field, entry=entry)
        if after is None:
            ctx.dropped(entry, why)
        else:
            yield ctx.changed(entry, after)


def chance(seed: str, *words: str) -> random.Random:
    """Random numbers that depend on these texts only."""
    return random.Random(f"{seed}|{'|'.join(words)}")


def key(seed: str, text: str) -> int:
    """64 bits that depend on these texts only."""
    return int.from_bytes(hashlib.blake2b(f"{seed}|{text}".encode("utf-8", "replace"), digest_size=8).digest(), "big")


class Spill:
    """Rows on disk, compressed; memory does not grow with them. Written once, then read as often as you like.

    Of each row only its number in the source stays in memory when it is read: nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, entry: Entry) -> None:
        import zstandard

        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = zstandard.ZstdCompressor(level=1).stream_writer(self._path.open("wb"), closefd=True)
        # JSON has no line ends and no tabs but escaped ones.
        self._file.write(
            f"{entry.number}\t{entry.line}\t{entry.hash}\t{entry.origin}\t{entry.data}\t{entry.meta}\n".encode()
        )
        self.count += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, wanted: Callable[[int], bool] = lambda place: True) -> Iterator[Entry]:
        """The rows in the order in which they were added; only those whose place (from 0) is wanted are parsed."""
        import io

        import zstandard

        self.close()
        if not self.count:
            return
        with self._path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for place, line in enumerate(io.BufferedReader(cast(Any, stream), 1024 * 1024)):
                if wanted(place):
                    yield _entry(line.decode())

    def drop(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)


def _entry(line: str) -> Entry:
    number, file_line, digest, origin, data, meta = line.rstrip("\n").split("\t")
    return Entry(int(number), int(file_line), None, None, data, meta, digest, origin=origin)


def spilled(rows: Iterable[Entry], ctx: StepContext, see: Callable[[Entry], None] = lambda entry: None) -> Spill:
    """All rows on disk, each shown to `see` on the way."""
    spill = ctx.spill()
    for entry in rows:
        see(entry)
        spill.add(entry)
    return spill


def flags(count: int, places: Iterable[int]) -> "array[int]":
    """One byte per row: 1 at these places."""
    found = array("B", bytes(count))
    for place in places:
        found[place] = 1
    return found


# --- the run


class Preparation:
    """The steps over one stream of rows. `rows()` may be called once; afterwards `tallies` says what each did.

    `others` gives the rows of a data set that a step refers to. `part` is the part of the split to keep; empty keeps
    all and only tells the observer where each row would go. `few` says that these are not all rows, so that nothing
    is concluded from how often something occurs. Raises UserError, StepError for what rows can't do.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        folder: Path,
        seed: int = 0,
        part: str = "",
        others: Others | None = None,
        observer: Observer | None = None,
        most_rows: int = 5_000_000,
        few: bool = False,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        observer = observer or Observer()
        self.steps, self._most, self._check_stop = steps, most_rows, check_stop
        self._contexts = [
            StepContext(
                step,
                seed=seed,
                part=part,
                folder=folder,
                others=others or _no_others,
                observer=observer,
                parts=parts_of(steps[:place]),
                few=few,
            )
            for place, step in enumerate(steps)
        ]

    @property
    def tallies(self) -> list[Tally]:
        return [ctx.tally for ctx in self._contexts]

    def rows(self, source: Iterable[Entry]) -> Iterator[Entry]:
        """What comes out, numbered as in the source; rows of another data set have the number 0."""
        stream = self._watched(source)
        for step, ctx in zip(self.steps, self._contexts, strict=True):
            stream = _counted_out(step.plugin.run(step.params, _counted_in(stream, ctx), ctx), ctx)
        return self._judged(stream)

    def _watched(self, rows: Iterable[Entry]) -> Iterator[Entry]:
        for count, entry in enumerate(rows):
            if count % _LOOK_EVERY == 0:
                self._check_stop()
            yield entry

    def _judged(self, rows: Iterator[Entry]) -> Iterator[Entry]:
        first = next(rows, None)
        if first is None:
            return
        kind = first.kind
        for count, entry in enumerate(chain([first], rows), 1):
            if count % _LOOK_EVERY == 0:
                self._check_stop()
            if entry.kind != kind:
                raise UserError(
                    f"After the last step there are rows of two kinds: {kind} and {entry.kind} (row {count:,}).",
                    hint="Add a step that converts them to one kind.",
                    field="steps",
                )
            if count > self._most:
                raise UserError(
                    f"The steps give more than {self._most:,} rows.",
                    hint="Ask for fewer copies or rows, or ask the operator to raise MAX_DATASET_ROWS.",
                    field="steps",
                )
            yield entry

    def require_rows(self, rows: int, taught: bool) -> None:
        """Raise UserError when nothing is left, naming the step that took the last row, or nothing to learn."""
        if not rows:
            last = next((tally for tally in self.tallies if tally.rows_in and not tally.rows_out), None)
            if last is None:
                raise UserError("There is no row to prepare.", field="from")
            why = ", ".join(f"{reason}: {count:,}" for reason, count in last.why.most_common(3))
            raise StepError(
                last.number,
                last.type,
                f"It leaves no row of the {last.rows_in:,} it got{f' ({why})' if why else ''}.",
                hint="Look at the preview, and loosen the step.",
            )
        if not taught:
            raise UserError(
                f"None of the {rows:,} rows that are left has anything to learn.",
                hint="Look at the preview: a step empties the answers.",
                field="steps",
            )


def _no_others(reference: str) -> Iterable[Entry]:
    raise UserError(f"The rows of {reference} are not there.", field="steps")


def _counted_in(rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    for entry in rows:
        ctx.tally.rows_in += 1
        yield entry


def _counted_out(rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    for entry in rows:
        ctx.tally.rows_out += 1
        yield entry


__all__ = ["STEPS", "Preparation", "Spill", "Step", "StepContext", "StepError", "StepErrors", "StepParams", "parse"]
