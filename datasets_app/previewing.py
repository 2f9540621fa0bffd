"""What the steps would do to a few rows: before, after, and which step dropped what. Pure.

`python -m datasets_app.previewing` reads a `Request` as JSON on standard input and prints an `Answer`: the web process
asks a process of its own, because steps import heavy libraries and a slow one has to be stopped.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datasets_app.importing import Entry
from datasets_app.preparing import Observer, Preparation, Step, parse
from datasets_app.storage import entries
from project.contracts.runs import UserError

ROWS = 10
MOST_ROWS = 100
SECONDS = 20.0
_OTHERS = 1000  # rows of another data set that take part
_COMPARED = 100_000  # rows of one that is only compared with: a few seconds
_LOOKED_AT = 32_000_000  # characters of either
_SHOWN = 20_000  # characters of a text in the answer
_SHOWN_ROW = 100_000  # characters of a row, or of its other columns
_SHOWN_PARTS = 100  # of a list, as that of the messages
_ANSWER = 32 * 1024**2  # bytes of the answer
_MEMORY = 2 * 1024**3  # bytes of data in the process of a preview


class Request(BaseModel):
    """The rows `start + 1` to `start + rows` of a stored version, and what to do with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    steps: list[dict[str, Any]]
    start: int = Field(default=0, ge=0)
    rows: int = Field(default=ROWS, ge=1, le=MOST_ROWS)
    seed: int = 0
    others: dict[str, str] = Field(default={}, description="reference -> folder of its stored rows")


class Shown(BaseModel):
    """One row of the source: its canonical row before, the rows that became of it, or why there is none.

    `number` 0 are rows of other data sets. `step` is the one that dropped it, 0 for none. Long texts are cut, and
    long lists: `left_out` counts the messages and other parts of them that are not here.
    """

    number: int
    before: dict[str, Any] | None = None
    before_meta: dict[str, Any] = {}
    after: list[dict[str, Any]] = []
    after_meta: list[dict[str, Any]] = []
    changed: bool = False
    step: int = 0
    why: str = ""
    part: str = ""
    left_out: int = 0


class Answer(BaseModel):
    rows: list[Shown] = []
    steps: list[dict[str, Any]] = Field(default=[], description="what each step did to these rows")
    error: str = ""
    hint: str = ""
    field: str = ""


class PreviewFailed(Exception):
    """The preview took too long or broke; the message says which."""


class _Memory(Observer):
    def __init__(self) -> None:
        self.fates: dict[int, tuple[int, str]] = {}
        self.parts: dict[int, str] = {}

    def dropped(self, step: Step, entry: Entry, why: str) -> None:
        self.fates.setdefault(entry.number, (step.number, why))

    def assigned(self, step: Step, entry: Entry, part: str) -> None:
        self.parts[entry.number] = part


def preview(request: Request) -> Answer:
    """Run the steps over these rows alone. What steps find out from all rows (a sample, a split) is of these few."""
    source = list(islice(entries(Path(request.folder), request.start), request.rows))
    memory = _Memory()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            steps = parse(request.steps)
            taken = {name for step in steps if step.takes_rows() for name in step.references()}
            preparation = Preparation(
                steps,
                folder=Path(scratch),
                seed=request.seed,
                others=lambda reference: _first(
                    entries(Path(request.others[reference])), _OTHERS if reference in taken else _COMPARED
                ),
                observer=memory,
                few=True,
                most_rows=MOST_ROWS * _OTHERS,
            )
            made = list(islice(preparation.rows(source), MOST_ROWS * 10))
        except UserError as error:
            return Answer(error=str(error), hint=error.hint, field=error.field)
    shown = {entry.number: _before(entry) for entry in source}
    sources = {entry.number: entry for entry in source}
    for entry in made:
        row = shown.setdefault(entry.number, Shown(number=entry.number))
        _add_after(row, entry, sources.get(entry.number))
    for number, row in shown.items():
        row.part = memory.parts.get(number, "")
        if not row.after:
            row.step, row.why = memory.fates.get(number, (0, ""))
    return Answer(rows=list(shown.values()), steps=[tally.as_json() for tally in preparation.tallies])


def _first(rows: Iterable[Entry], most: int) -> Iterator[Entry]:
    """The first `most` rows, fewer of long ones."""
    characters = 0
    for entry in islice(rows, most):
        yield entry
        characters += len(entry.data)
        if characters >= _LOOKED_AT:
            return


def _before(entry: Entry) -> Shown:
    row, meta = _Cut(), _Cut()
    before, before_meta = row.of(json.loads(entry.data)), meta.of(json.loads(entry.meta))
    return Shown(number=entry.number, before=before, before_meta=before_meta, left_out=row.left_out + meta.left_out)


def _add_after(row: Shown, entry: Entry, before: Entry | None) -> None:
    after, meta = _Cut(), _Cut()
    row.after.append(after.of(json.loads(entry.data)))
    row.after_meta.append(meta.of(json.loads(entry.meta)))
    row.left_out += after.left_out + meta.left_out
    same = before is not None and entry.data == before.data and json.loads(entry.meta) == json.loads(before.meta)
    row.changed = len(row.after) > 1 or not same


class _Cut:
    """A row, or its other columns, with the beginning of its texts and lists: the answer has to stay small."""

    def __init__(self) -> None:
        self.left_out = 0
        self._room = _SHOWN_ROW

    def of(self, value: Any) -> Any:
        if isinstance(value, str):
            kept = value[: max(min(self._room, _SHOWN), 0)]
            self._room -= len(kept)
            return value if len(kept) == len(value) else f"{kept}… ({len(value):,} characters)"
        self._room -= 1
        if isinstance(value, dict):  # all its names: a row has to stay one
            return {name: self.of(part) for name, part in value.items()}
        if isinstance(value, list):
            kept_parts = [self.of(part) for part in takewhile(lambda _: self._room > 0, value[:_SHOWN_PARTS])]
            self.left_out += len(value) - len(kept_parts)
            return kept_parts
        return value


def preview_apart(request: Request, *, seconds: float = SECONDS) -> Answer:
    """`preview` in a process of its own, whose memory and answer are limited. Raises PreviewFailed."""
    command = [sys.executable, "-m", "datasets_app.previewing"]
    root = Path(__file__).resolve().parent.parent
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread has memory of its own
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                command,
                input=request.model_dump_json().encode(),
                stdout=answer,
                stderr=errors,
                timeout=seconds,
                cwd=root,
                env={**os.environ, **one_thread},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PreviewFailed(f"The preview took longer than {seconds:g} seconds. Try it with fewer steps.") from None
        if done.returncode:
            errors.seek(max(errors.seek(0, os.SEEK_END) - 2000, 0))
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise PreviewFailed(f"The preview broke: {' '.join(last) or f'exit code {done.returncode}'}")
        answer.seek(0)
        said = answer.read(_ANSWER + 1)
    if len(said) > _ANSWER:
        raise PreviewFailed("These rows are too long for a preview. Try it with fewer rows.")
    return Answer.model_validate_json(said)


def main() -> None:
    request = Request.model_validate_json(sys.stdin.buffer.read())
    _limit_memory(_MEMORY)
    try:
        said = preview(request).model_dump_json()
    except MemoryError:
        said = Answer(error="The preview needs too much memory.", hint="Try it with fewer steps.").model_dump_json()
    sys.stdout.write(said)


def _limit_memory(most: int) -> None:
    """Only Linux keeps to it; a limit that is lower already stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main()
