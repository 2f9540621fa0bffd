"""Evaluation: ask a model the questions of a data set, greedily and in batches, and score its answers.

Inputs: `base`, `data`, and `adapter` for a tuned version that is an adapter. Artifact: `answers.jsonl`, a line per row
in the order of the data set: {row (from 1), prompt, answer, reference, finish_reason, scores}.
"""

import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from project.contracts.events import FailureClass
from project.contracts.plugins import UnknownPlugin
from project.contracts.rows import ChatRow, CompletionRow, Row, RowKind
from project.contracts.runs import Remedy, RunContext, UserError
from training.engine.metrics_registry import METRICS, Case, Need
from training.engine.splits import held_back

if TYPE_CHECKING:
    from project.modeling.generate import Model
    from project.modeling.render import Question

name = "evaluate"
label = "Evaluation"
eats = (RowKind.CHAT, RowKind.COMPLETION)
needs: Literal["device"] = "device"
preload = ("project.modeling.generate", "training.engine.intervals")

TIMED_ROWS = 8
SAMPLES = 5


class EvaluateParams(BaseModel):
    """What is measured and how. Answers are greedy, so the same model gives the same ones (on one machine, in fp32)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: tuple[str, ...] = Field(
        ("exact_match", "f1", "perplexity", "latency"), min_length=1, description="What to measure."
    )
    limit: int | None = Field(None, ge=1, description="At most this many rows, drawn by the seed. null takes all.")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Longest answer, in tokens; longer ones are cut. null: twice the longest reference.",
    )
    batch_size: int = Field(16, ge=1, le=1024, description="Questions answered at once. Takes memory in proportion.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Number format. auto is what the device is fast at; fp32 is the most repeatable."
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Of the choice of rows, if there is a limit.")
    validation_split: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Above 0: only the rows that training with this share and `split_seed` held back.",
    )
    split_seed: int = Field(42, ge=0, le=2**32 - 1, description="The seed of that training.")

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for metric in names:
            try:
                METRICS.get(metric)
            except UnknownPlugin as error:
                raise ValueError(str(error)) from None
        return tuple(dict.fromkeys(names))


Params = EvaluateParams


def smaller(params: EvaluateParams) -> EvaluateParams | None:
    """Fewer questions at once: the same answers in less memory."""
    half = params.batch_size // 2
    return params.model_copy(update={"batch_size": half}) if half else None


def remedies(params: EvaluateParams, failure: FailureClass, field: str) -> list[Remedy]:
    """What may help after a failure."""
    less = smaller(params)
    if failure not in (FailureClass.DEVICE_MEMORY, FailureClass.HOST_MEMORY) or less is None:
        return []
    return [Remedy("smaller-batch", f"Retry with {less.batch_size} questions at once", less)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A row with its question, and what came of it so far."""

    number: int
    row: ChatRow | CompletionRow
    question: "Question"
    case: Case
    finish_reason: str = ""


def run(params: EvaluateParams, ctx: RunContext) -> None:
    """Answer, score, and leave every answer in the artifact."""
    began = time.monotonic()
    ctx.progress(0, 0, unit="row", phase="load")
    from project.modeling.data import iter_rows
    from project.modeling.loading import fast_dtype, load_adapter, load_base, load_tokenizer

    tokenizer = load_tokenizer(ctx.input("base"))
    automatic = fast_dtype(ctx.spec.device) if params.precision == "auto" else None
    dtype = automatic or ("float32" if params.precision == "fp32" else "bfloat16")
    model: Model = load_base(ctx.input("base"), device=ctx.spec.device, dtype=dtype)
    if "adapter" in ctx.spec.inputs:
        model = load_adapter(model, ctx.input("adapter"), "adapter")
    asked, skipped = _questions(params, iter_rows(ctx.input("data")), tokenizer, model, ctx)

    longest = params.max_new_tokens or _longest(asked, tokenizer)
    wanted: set[Need] = {METRICS.get(metric).needs for metric in params.metrics}
    if "likelihood" in wanted:
        asked = _with_likelihood(asked, model, tokenizer, ctx)
    if "timing" in wanted:
        asked = _with_timing(asked, model, tokenizer, longest, ctx)
    answered = time.monotonic()
    tokens = 0
    if "answers" in wanted:
        asked, tokens = _with_answers(asked, model, tokenizer, longest, params.batch_size, ctx)
    seconds = time.monotonic() - answered

    scores = _write(asked, params, ctx)
    for case in asked[:SAMPLES]:
        ctx.sample(case.number, case.case.prompt, case.case.answer or "", case.case.reference)
    ctx.metrics(len(asked), **{metric: summary["value"] for metric, summary in scores.items()})
    ctx.done(
        artifact=True,
        scores=scores,
        rows=len(asked),
        skipped=skipped,
        cut_answers=sum(one.finish_reason == "length" for one in asked),
        max_new_tokens=longest,
        precision=dtype,
        answer_tokens_per_second=round(tokens / seconds, 1) if tokens else None,
        total_seconds=round(time.monotonic() - began, 3),
    )


def _questions(
    params: EvaluateParams, rows: Iterable[Row], tokenizer: Any, model: "Model", ctx: RunContext
) -> tuple[list[Asked], int]:
    """The rows to ask, in their order. Rows without an answer to expect, or too long for the context, are skipped."""
    from project.modeling.generate import context_limit
    from project.modeling.render import TemplateError, question

    chosen = list(enumerate(rows, start=1))
    if params.validation_split:
        held = held_back(len(chosen), params.validation_split, params.split_seed)
        chosen = [(number, row) for number, row in chosen if number in held]
    if params.limit is not None and params.limit < len(chosen):
        chosen = sorted(random.Random(params.seed).sample(chosen, params.limit), key=lambda pair: pair[0])
    limit = context_limit(model) or float("inf")
    asked = []
    for number, row in chosen:
        if not isinstance(row, ChatRow | CompletionRow):
            raise UserError(
                f"Row {number} is a {row.kind} row; only chat and completion rows can be asked.", field="data"
            )
        try:
            found = question(tokenizer, row)
        except TemplateError as error:
            raise UserError(f"Row {number}: {error}", hint=error.hint, field=error.field) from error
        if found is not None and len(found.ids) < limit:
            asked.append(Asked(number, row, found, Case(found.text, found.reference)))
    if not asked:
        raise UserError(
            f"None of the {len(chosen)} rows has a question that fits the model's context and an answer to expect.",
            hint="Rows need a turn of the user followed by one of the assistant.",
            field="data",
        )
    if skipped := len(chosen) - len(asked):
        ctx.log(f"{skipped} rows have no answer to compare with or do not fit the context; skipped.", level="warning")
    return asked, len(chosen) - len(asked)


def _longest(asked: Sequence[Asked], tokenizer: Any) -> int:
    """Room for answers twice as long as the longest reference: what goes on after that is wrong by any metric."""
    tokens = (len(tokenizer(one.case.reference, add_special_tokens=False).input_ids) for one in asked)
    return min(max(32, 2 * max(tokens)), 8192)


def _with_answers(
    asked: Sequence[Asked], model: "Model", tokenizer: Any, max_new_tokens: int, batch_size: int, ctx: RunContext
) -> tuple[list[Asked], int]:
    """The same rows with their answers, and how many tokens those have. Similar lengths are answered together."""
    from project.modeling.generate import generate_batch

    order = sorted(range(len(asked)), key=lambda i: -len(asked[i].question.ids))
    done, tokens = dict(enumerate(asked)), 0
    for start in range(0, len(order), batch_size):
        ctx.check_stop()
        ctx.progress(start, len(asked), unit="row", phase="answer")
        batch = order[start : start + batch_size]
        prompts = [asked[i].question.ids for i in batch]
        answers = generate_batch(
            model, tokenizer, prompts, max_new_tokens=max_new_tokens, each=lambda _: ctx.stop_requested
        )
        ctx.check_stop()  # answers that a stop has cut short must not be scored
        for i, answer in zip(batch, answers, strict=True):
            case = replace(asked[i].case, answer=answer.text)
            done[i] = replace(asked[i], case=case, finish_reason=answer.finish_reason)
            tokens += len(answer.ids)
    ctx.progress(len(asked), len(asked), unit="row", phase="answer")
    return list(done.values()), tokens


def _with_likelihood(asked: Sequence[Asked], model: "Model", tokenizer: Any, ctx: RunContext) -> list[Asked]:
    """The same rows with the likelihood of their references."""
    import torch
    from torch.nn.functional import cross_entropy

    from project.modeling.generate import context_limit

    done = []
    for number, one in enumerate(asked):
        ctx.check_stop()
        ctx.progress(number, len(asked), unit="row", phase="likelihood")
        start, ids = len(one.question.ids), _through_reference(tokenizer, one)[: context_limit(model)]
        with torch.inference_mode():
            whole = torch.tensor([ids], device=model.device)
            logits = model(input_ids=whole, use_cache=False, logits_to_keep=len(ids) - start + 1).logits[0, :-1]
            nll = float(cross_entropy(logits.float(), whole[0, start:], reduction="sum"))
        done.append(replace(one, case=replace(one.case, nll=nll, reference_tokens=len(ids) - start)))
    return done


def _through_reference(tokenizer: Any, one: Asked) -> list[int]:
    """The ids of the question and its reference answer, through the token that ends it."""
    from project.modeling.render import render_row

    row = one.row
    if isinstance(row, ChatRow):
        last = max(i for i, message in enumerate(row.messages) if message.role == "assistant")
        turns = [
            message.model_copy(update={"weight": None if i == last else 0}) for i, message in enumerate(row.messages)
        ]
        row = ChatRow(messages=tuple(turns[: last + 1]))
    rendered = render_row(tokenizer, row)
    end = max(i for i, learned in enumerate(rendered.mask) if learned) + 1
    return rendered.ids[:end]


def _with_timing(
    asked: Sequence[Asked], model: "Model", tokenizer: Any, max_new_tokens: int, ctx: RunContext
) -> list[Asked]:
    """The same rows; a few of them with the time that one request takes by itself."""
    from project.modeling.generate import generate_batch

    def answer(one: Asked) -> float:
        began = time.monotonic()
        generate_batch(model, tokenizer, [one.question.ids], max_new_tokens=max_new_tokens)
        return time.monotonic() - began

    answer(asked[0])  # warm-up
    timed: list[Asked] = []
    for one in asked[:TIMED_ROWS]:
        ctx.check_stop()
        ctx.progress(len(timed), min(TIMED_ROWS, len(asked)), unit="row", phase="time")
        timed.append(replace(one, case=replace(one.case, seconds=answer(one))))
    return [*timed, *asked[TIMED_ROWS:]]


def _write(asked: Sequence[Asked], params: EvaluateParams, ctx: RunContext) -> dict[str, dict[str, Any]]:
    """Write every answer with its scores, and return each metric's value with its interval."""
    metrics = [METRICS.get(metric) for metric in params.metrics]
    rows = [{metric.name: metric.score(one.case) for metric in metrics} for one in asked]
    with (ctx.artifact / "answers.jsonl").open("w", encoding="utf-8") as file:
        for one, scores in zip(asked, rows, strict=True):
            line = {
                "row": one.number,
                "prompt": one.case.prompt,
                "answer": one.case.answer,
                "reference": one.case.reference,
                "finish_reason": one.finish_reason or None,
                "scores": {metric: score for metric, score in scores.items() if score is not None},
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    summary = {}
    for metric in metrics:
        pairs = [(one.case, s) for one, row in zip(asked, rows, strict=True) if (s := row[metric.name]) is not None]
        if pairs:
            summary[metric.name] = asdict(metric.summarise([case for case, _ in pairs], [s for _, s in pairs]))
    return summary
