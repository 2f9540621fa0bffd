"""Token lengths: how long the rows of a data set are for a base model, for rows without a loss mask of their own.

A pair of answers is as long as its longer side, because each is rendered with the prompt; a row with a thumb is its
prompt with its answer, a prompt what a model is given to answer it, a text its tokens and the end token; texts are not
cut, but learned in pieces. Conversations and completions have the preflight, which also knows what is learned. Inputs:
`base` and `data`. Artifact: `views.jsonl`, the tokens of the first rows and of rows that something is wrong with.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from project.contracts.rows import PreferenceRow, PromptRow, Row, RowKind, TextRow, UnpairedRow
from project.contracts.runs import RunContext, UserError
from training.engine.recipes.preflight import VIEWS, PreflightParams, Seen, histogram, view

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from project.modeling.render import Rendered

name = "token_lengths"
label = "Lengths in tokens"
eats = (RowKind.PREFERENCE, RowKind.UNPAIRED, RowKind.PROMPT, RowKind.TEXT)
needs: Literal["cpu"] = "cpu"
Params = PreflightParams

FLAGS = {
    "refused": "The chat template refuses it, so training stops there",
    "too_long": "It has more tokens than the greatest length, and would be cut",
}


def run(params: PreflightParams, ctx: RunContext) -> None:
    ctx.progress(0, 0, unit="row", phase="load")
    import pyarrow.parquet as pq

    from project.modeling.data import iter_rows
    from project.modeling.loading import describe, load_tokenizer

    base, data, most = ctx.input("base"), ctx.input("data"), params.max_seq_length
    context = describe(base).context
    if context and most > context:
        raise UserError(
            f"max_seq_length is {most}, but the model's context has {context} tokens.",
            hint=f"Choose at most {context}.",
            field="max_seq_length",
        )
    tokenizer = load_tokenizer(base)
    total = int(pq.read_metadata(data / "rows.parquet").num_rows)
    lengths, flags, sides = array("I"), Counter[str](), {"chosen": array("I"), "rejected": array("I")}
    with (ctx.artifact / VIEWS).open("w", encoding="utf-8") as views:
        for seen, rendered in measured(iter_rows(data), tokenizer, most, sides):
            lengths.append(seen.length)
            flags[seen.flag] += 1
            if seen.number <= params.first or (seen.flag and flags[seen.flag] <= params.of_each):
                kept = most if seen.flag else seen.length
                views.write(json.dumps(view(seen, rendered, tokenizer, kept)) + "\n")
            if seen.number % 256 == 0:
                ctx.check_stop()
                ctx.progress(seen.number, total, unit="row", phase="render")
    ctx.progress(total, total, unit="row", phase="render")
    ctx.done(artifact=True, **summary(lengths, flags, sides, most))


def measured(
    rows: Iterator[Row], tokenizer: "PreTrainedTokenizerBase", most: int, sides: "dict[str, array[int]]"
) -> "Iterator[tuple[Seen, Rendered | None]]":
    """Each row's length in tokens before any cut, and its longest rendering. `sides` gets the lengths of pairs."""
    from project.modeling.render import TemplateError

    for number, row in enumerate(rows, 1):
        try:
            renderings = list(rendered(tokenizer, row))
        except TemplateError as error:
            yield Seen(number, 0, 0, 0, "refused", f"{error} {error.hint}".strip()), None
            continue
        if isinstance(row, PreferenceRow):
            for side, one in zip(("chosen", "rejected"), renderings, strict=True):
                sides[side].append(len(one.ids))
        longest = max(renderings, key=lambda one: len(one.ids))
        cut = len(longest.ids) > most and not isinstance(row, TextRow)
        yield Seen(number, len(longest.ids), 0, 0, "too_long" if cut else ""), longest


def rendered(tokenizer: "PreTrainedTokenizerBase", row: Row) -> "Iterator[Rendered]":
    """The row as token ids, of a pair both sides, as training renders them; nothing of it is marked as learned. Raises
    TemplateError."""
    from project.modeling.render import Rendered, prompt_ids, render_row, text_ids
    from training.engine.components.readings import JUDGED, PAIRS

    match row:
        case TextRow():
            given = text_ids(tokenizer, [row.text])
        case PromptRow():
            given = [prompt_ids(tokenizer, row.prompt, tools=row.tools)]
        case UnpairedRow() | PreferenceRow():
            reading = JUDGED if isinstance(row, UnpairedRow) else PAIRS
            given = [render_row(tokenizer, one).ids for one in reading.conversations(row)]
        case _:
            raise UserError(f"A {row.kind} row has a preflight, which also knows what is learned.", field="data")
    for one in given:
        yield Rendered(one, [0] * len(one))


def summary(lengths: "array[int]", flags: "Counter[str]", sides: "dict[str, array[int]]", most: int) -> dict[str, Any]:
    """Counts of rows and tokens, how long rows are, and the mean length of both sides of pairs."""
    ordered = sorted(lengths)
    lost = sum(max(length - most, 0) for length in ordered) if flags["too_long"] else 0
    pairs = {side: round(sum(found) / len(found), 1) for side, found in sides.items() if found}
    return {
        "rows": len(ordered),
        "tokens": sum(ordered),
        "kept": sum(ordered) - lost,
        "lost_tokens": lost,
        "flags": {flag: flags[flag] for flag in FLAGS},
        "max_seq_length": most,
        "percentiles": {str(share): ordered[(len(ordered) - 1) * share // 100] for share in (50, 90, 95, 99, 100)}
        if ordered
        else {},
        "histogram": histogram(ordered),
        **({"pairs": pairs} if pairs else {}),
    }
