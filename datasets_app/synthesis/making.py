"""What the recipes that let a model write share: who writes, what is kept and refused, how a version is made. Pure."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datasets_app.editing import synthetic, with_meta
from datasets_app.importing import Entry
from datasets_app.reading import excerpt
from datasets_app.storage import FILE, SYNTHETIC, RowsFile
from datasets_app.synthesis.writing import EndpointWriter, LocalWriter, Manner, Writer
from datasets_app.validation import Validation
from project.contracts.rows import Row, row_bytes
from project.contracts.runs import RunContext, UserError

FORMAT = "synthetic"  # what a version says instead of a file's format
REJECTS = "rejects.jsonl"
_SHOWN = 200  # rejects in the report; the file has all
_LONGEST = 2_000  # characters of one in the file


class WriterParams(BaseModel):
    """How a model writes. The model is the job's input `writer` (an endpoint), or `base` and perhaps `adapter`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=0.8, ge=0, le=2, description="0 always writes the likeliest.")
    max_tokens: int = Field(default=512, ge=1, le=32_768, description="Longest answer; a longer one is refused.")
    quality_filter: bool = Field(default=True, description="Leave out what is not good enough.")
    seed: int = Field(default=0, ge=0, le=2**31, description="Same seed, same questions.")
    concurrency: int = Field(default=4, ge=1, le=64, description="Questions to an endpoint at a time.")
    batch_size: int = Field(default=8, ge=1, le=256, description="Questions to a model here at a time.")
    writer: str = Field(default="", max_length=300, description="who writes, in words")

    def writing(self, ctx: RunContext) -> Writer:
        """Load the model, or get ready to call it."""
        manner = Manner(self.temperature, self.max_tokens, self.seed)
        if "base" in ctx.spec.inputs:
            return LocalWriter(manner, batch_size=self.batch_size, ctx=ctx)
        return EndpointWriter(ctx.endpoint("writer"), manner, concurrency=self.concurrency, ctx=ctx)


def entry_of(row: Row, mark: dict[str, Any], origin: str = "") -> Entry:
    """A row that a model wrote. `origin` is the hash of the row by whose side it stays when data is split."""
    data = row_bytes(row)
    entry = Entry(0, 0, row, None, data.decode(), "{}", hashlib.sha256(data).hexdigest())
    of = {"of": origin} if origin else {}
    return with_meta(entry, {SYNTHETIC: {**mark, **of}})


def copy_of(entry: Entry, origin: Entry, mark: dict[str, Any]) -> Entry:
    """A row that a model wrote after another one, with the other's columns."""
    marked = synthetic(entry, origin, str(mark["by"]))
    meta = json.loads(marked.meta)
    return with_meta(marked, {**meta, SYNTHETIC: {**meta[SYNTHETIC], **mark}})


@dataclass
class Making:
    """Counts what is accepted and refused, writes both, and tells it live."""

    ctx: RunContext
    file: RowsFile
    mark: dict[str, Any]
    goal: int
    accepted: int = 0
    rejected: int = 0
    tokens: int = 0
    answers: int = 0
    why: Counter[str] = field(default_factory=Counter)
    shown: list[dict[str, Any]] = field(default_factory=list)
    validation: Validation = field(default_factory=Validation)

    def __post_init__(self) -> None:
        self._rejects = (self.ctx.artifact / REJECTS).open("w", encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Store a row, whoever wrote it."""
        entry = entry._replace(number=self.file.rows + 1, line=0)
        self.file.add(entry)
        self.validation.see(entry)

    def accept(self, entry: Entry) -> None:
        self.accepted += 1
        self.add(entry)

    def reject(self, reason: str, question: str, answer: str) -> None:
        self.rejected += 1
        self.why[reason.partition(":")[0]] += 1
        one = {"reason": reason, "question": excerpt(question, _LONGEST), "answer": excerpt(answer, _LONGEST)}
        self._rejects.write(json.dumps(one, ensure_ascii=False) + "\n")
        if len(self.shown) < _SHOWN:
            self.shown.append({name: excerpt(text, 300) for name, text in one.items()})

    def tell(self, *, done: int, again: bool) -> None:
        """`again`: an earlier try has told of this answer; a step of the chart appears once."""
        self.ctx.progress(min(done, self.goal), self.goal, unit="row", phase="Writing")
        if not again:
            self.ctx.metrics(self.answers, accepted=self.accepted, rejected=self.rejected)

    def finish(self, *, shape: str, **facts: Any) -> None:
        """Write the report and say that it is done. Call it when the rows file is closed."""
        self._rejects.close()
        written = {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "answers": self.answers,
            "tokens": self.tokens,
            "why": dict(self.why.most_common()),
            "rejects": self.shown,
            **self.mark,
            **facts,
        }
        report = self.validation.report(
            [],
            0,
            format={"name": FORMAT, "evidence": f"written by {self.mark.get('model') or 'a model'}"},
            shape={"name": shape, "label": ""},
            columns={"found": [], "mapped": {}},
            generation=written,
        )
        (self.ctx.artifact / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1))
        self.ctx.log(f"{self.accepted:,} accepted, {self.rejected:,} rejected, of {self.answers:,} answers")
        self.ctx.done(
            artifact=True,
            **self.file.facts(),
            row_kind=shape,
            format=FORMAT,
            accepted=self.accepted,
            rejected=self.rejected,
            answers=self.answers,
            tokens=self.tokens,
        )

    def require_some(self) -> None:
        """Raises UserError, with the reasons, when nothing was good enough."""
        if not self.accepted:
            why = ", ".join(f"{reason}: {count:,}" for reason, count in self.why.most_common(3)) or "no answers"
            raise UserError(
                f"None of the {self.answers:,} answers is good enough ({why}).",
                hint="Try another model, shorter instructions or more max_tokens, or turn the quality filter off.",
                field="quality_filter",
            )


def rows_file(ctx: RunContext) -> RowsFile:
    return RowsFile(Path(ctx.artifact) / FILE)
