"""Mix the rows with those of other data sets, in given proportions."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from datasets_app.editing import meta_of, with_meta
from datasets_app.importing import Entry
from datasets_app.preparing import Spill, StepContext, StepParams, chance, seed_field
from datasets_app.storage import SYNTHETIC

name = "mix"
label = "Mix with other data sets"

_HERE = ""  # the rows that come from the steps before


class Params(StepParams):
    data: dict[str, float] = Field(
        min_length=1,
        max_length=20,
        description="Other data sets and their weights, as in dolly:2 = 0.5. Rows are drawn in these proportions.",
    )
    weight: float = Field(default=1.0, gt=0, le=1e6, description="The weight of the rows that are here already.")
    until: Literal["all_end", "first_ends", "rows"] = Field(
        default="all_end",
        description="Stop when every row is used once (all_end), when the first data set runs out (first_ends: the "
        "proportions hold), or after a number of rows (rows: small data sets begin anew).",
    )
    rows: int | None = Field(default=None, ge=1, description="How many rows in all, for until = rows.")
    mark: str = Field(
        default="source", max_length=100, description="The column that says where a row is from; empty for none."
    )
    seed: int | None = seed_field()

    @field_validator("data")
    @classmethod
    def _weights(cls, data: dict[str, float]) -> dict[str, float]:
        for reference, weight in data.items():
            if not reference.strip():
                raise ValueError("Name the data set, as in dolly:2.")
            if not 0 < weight <= 1e6:
                raise ValueError(f"The weight of {reference} has to be more than 0.")
        return data

    @field_validator("mark")
    @classmethod
    def _not_synthetic(cls, mark: str) -> str:
        if mark == SYNTHETIC:
            raise ValueError(f"The column '{SYNTHETIC}' marks rows that a machine wrote. Use another name.")
        return mark

    @model_validator(mode="after")
    def _knows_its_end(self) -> "Params":
        if (self.until == "rows") != (self.rows is not None):
            raise ValueError("Say how many rows there are to be, with until = rows.")
        return self


def references(params: Params) -> list[str]:
    return list(params.data)


def with_references(params: Params, names: Mapping[str, str]) -> Params:
    """The same, with other names for the data sets: the versions that were meant."""
    return params.model_copy(update={"data": {names[name]: weight for name, weight in params.data.items()}})


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    random = chance(ctx.seed(params.seed), "mix")
    # By name, because a database may change the order of an object's names.
    sources = {reference: iter(ctx.other(reference)) for reference in sorted(params.data)} | {_HERE: rows}
    weights = {**params.data, _HERE: params.weight}
    kept = ctx.spill() if params.until == "rows" else None  # the rows that are here, in case they begin anew
    anew: set[str] = set()
    given = 0
    while sources and given != params.rows:
        chosen = random.choices(list(sources), [weights[source] for source in sources])[0]
        entry = next(sources[chosen], None)
        if entry is None and params.until == "all_end":
            del sources[chosen]
            continue
        if entry is None and params.until == "first_ends":
            break
        if entry is None:
            anew.add(chosen)
            sources[chosen] = _anew(chosen, kept, ctx)
            entry = next(sources[chosen])
        elif kept is not None and chosen == _HERE and _HERE not in anew:
            kept.add(entry)
        given += 1
        yield _marked(entry, chosen, params.mark, ctx)
    for entry in sources.get(_HERE, ()) if _HERE not in anew else ():
        ctx.dropped(entry, "the mix was complete")
    if kept is not None:
        kept.drop()


def _anew(source: str, kept: Spill | None, ctx: StepContext) -> Iterator[Entry]:
    """The rows of a source once more, as often as needed."""
    found = 0
    while True:
        for entry in kept.read() if source == _HERE and kept is not None else ctx.other(source):
            found += 1
            yield entry
        if not found:
            ctx.fail(f"{source or 'What comes from the steps before'} has no rows.", field="data")


def _marked(entry: Entry, source: str, mark: str, ctx: StepContext) -> Entry:
    ctx.note(source or "from here")
    if source == _HERE:
        return entry
    ctx.added(entry)
    entry = entry._replace(number=0)
    return with_meta(entry, {**meta_of(entry), mark: source}) if mark else entry
