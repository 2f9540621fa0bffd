"""Preflight: what a base model would learn from the rows of a data set, before anybody pays for it.

Every row is rendered by the renderer that training uses, so what is shown is what would be trained. Inputs: `base` and
`data`. Artifact: `views.jsonl`, token by token, of the first rows and of rows that something is wrong with.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from project.contracts.rows import ChatRow, CompletionRow, Row, RowKind
from project.contracts.runs import RunContext, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from project.modeling.render import Rendered

name = "preflight"
label = "Preflight"
eats = (RowKind.CHAT, RowKind.COMPLETION)
needs: Literal["cpu"] = "cpu"

VIEWS = "views.jsonl"
MOST_SHOWN = 4096  # tokens of one row
BARS = 24

# What may be wrong with a row, from the worst on: the first one that fits is counted.
FLAGS = {
    "refused": "The chat template refuses it, so training stops there",
    "no_answer": "It has no answer to learn",
    "answer_lost": "Its answer lies beyond the greatest length, so nothing is learned",
    "cut_answer": "Its answer is cut",
    "cut": "It is cut behind its last learned token",
}
IS_LOST = ("refused", "no_answer", "answer_lost")


class PreflightParams(BaseModel):
    """At which length rows are cut, and how many are kept to be looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_seq_length: int = Field(512, ge=16, le=1_048_576, description="Tokens of a row that training keeps.")
    first: int = Field(200, ge=0, le=2000, description="So many rows from the beginning can be looked at.")
    of_each: int = Field(100, ge=0, le=1000, description="So many rows of each finding can be looked at.")


Params = PreflightParams


@dataclass(frozen=True)
class Seen:
    """One row: its tokens before any cut, and what became of them. `flag` is a key of FLAGS or empty."""

    number: int
    length: int
    learned: int
    kept_learned: int
    flag: str
    reason: str = ""


def run(params: PreflightParams, ctx: RunContext) -> None:
    ctx.progress(0, 0, unit="row", phase="load")
    from project.modeling.data import iter_rows
    from project.modeling.loading import describe, load_tokenizer

    base = ctx.input("base")
    context = describe(base).context
    if context and params.max_seq_length > context:
        raise UserError(
            f"max_seq_length is {params.max_seq_length}, but the model's context has {context} tokens.",
            hint=f"Choose at most {context}.",
            field="max_seq_length",
        )
    tokenizer = load_tokenizer(base)
    total = _count(ctx.input("data"))
    lengths, counts = array("I"), Counter[str]()
    with (ctx.artifact / VIEWS).open("w", encoding="utf-8") as views:
        for seen, rendered in looked_at(iter_rows(ctx.input("data")), tokenizer, params.max_seq_length):
            lengths.append(seen.length)
            _note(counts, seen, params.max_seq_length)
            if seen.number <= params.first or (seen.flag and counts[seen.flag] <= params.of_each):
                views.write(json.dumps(view(seen, rendered, tokenizer, params.max_seq_length)) + "\n")
            if seen.number % 256 == 0:
                ctx.check_stop()
                ctx.progress(seen.number, total, unit="row", phase="render")
    ctx.progress(total, total, unit="row", phase="render")
    ctx.done(artifact=True, **summary(counts, lengths, params.max_seq_length))


def looked_at(
    rows: Iterator[Row], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[tuple[Seen, "Rendered | None"]]:
    """Each row as training would see it. Raises UserError for a row of another kind."""
    from project.modeling.render import TemplateError, render_rows
    from training.engine.components.rows import teaches

    for number, whole in enumerate(render_rows(tokenizer, _conversations(rows)), 1):
        if isinstance(whole, TemplateError):
            yield Seen(number, 0, 0, 0, "refused", f"{whole} {whole.hint}".strip()), None
            continue
        kept = whole.cut(max_length)
        learned, kept_learned = whole.learned, kept.learned
        if not teaches(whole):
            flag = "no_answer"
        elif not teaches(kept):
            flag = "answer_lost"
        elif kept_learned < learned:
            flag = "cut_answer"
        else:
            flag = "cut" if kept.dropped else ""
        yield Seen(number, len(whole.ids), learned, kept_learned, flag), whole


def _conversations(rows: Iterator[Row]) -> Iterator[ChatRow | CompletionRow]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, ChatRow | CompletionRow):
            raise UserError(f"Row {number} is a {row.kind} row; chat and completion rows are rendered.", field="data")
        yield row


def view(
    seen: Seen, rendered: "Rendered | None", tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> dict[str, Any]:
    """A row for people: runs of tokens of one kind, as [kind, [text, …]]; kinds are context, learned and lost."""
    from project.modeling.pieces import pieces

    facts = {"row": seen.number, "length": seen.length, "learned": seen.kept_learned, "flag": seen.flag}
    if rendered is None:
        return {**facts, "reason": seen.reason, "runs": []}
    shown = rendered.ids[:MOST_SHOWN]
    runs: list[tuple[str, list[str]]] = []
    for index, text in enumerate(pieces(tokenizer, shown)):
        kind = "lost" if index >= max_length else "learned" if rendered.mask[index] and index else "context"
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(text)
    return {**facts, "reason": "", "runs": runs, "more": len(rendered.ids) - len(shown)}


def _note(counts: Counter[str], seen: Seen, max_length: int) -> None:
    counts["rows"] += 1
    counts["tokens"] += seen.length
    counts["kept"] += min(seen.length, max_length) if seen.flag not in IS_LOST else 0
    counts["learned"] += seen.kept_learned if seen.flag not in IS_LOST else 0
    counts["lost_tokens"] += max(seen.length - max_length, 0)
    counts["lost_learned"] += seen.learned - seen.kept_learned
    if seen.flag:
        counts[seen.flag] += 1


def summary(counts: "Counter[str]", lengths: "array[int]", max_length: int) -> dict[str, Any]:
    """Counts of rows and tokens, and how long rows are. `learned` of the `kept` tokens are what the loss is over."""
    ordered = sorted(lengths)
    names = ("rows", "tokens", "kept", "learned", "lost_tokens", "lost_learned")
    return {
        **{one: counts[one] for one in names},
        "flags": {flag: counts[flag] for flag in FLAGS},
        "max_seq_length": max_length,
        "percentiles": {str(share): ordered[(len(ordered) - 1) * share // 100] for share in (50, 90, 95, 99, 100)}
        if ordered
        else {},
        "histogram": histogram(ordered),
    }


def histogram(ordered: list[int]) -> list[dict[str, int]]:
    """BARS bars of equal width or one more, from `from` to below `to`; what is far above the 95th percentile shares the
    last one."""
    if not ordered:
        return []
    end = min(ordered[-1], 4 * max(ordered[(len(ordered) - 1) * 95 // 100], 1))
    width = max(-(-(end + 1) // BARS), 1)
    counted = Counter(min(length // width, end // width) for length in ordered)
    bars = [{"from": bar * width, "to": (bar + 1) * width, "rows": counted[bar]} for bar in range(end // width + 1)]
    bars[-1]["to"] = max(bars[-1]["to"], ordered[-1] + 1)
    return bars


def _count(data: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(data / "rows.parquet" if data.is_dir() else data).num_rows)
