"""The recipe `synthesize`: a model writes rows, from templates, about documents, or after examples.

Inputs: `writer` (an endpoint), or `base` and perhaps `adapter`; and `source` with the documents or examples.
"""

import math
from functools import partial
from itertools import islice
from typing import Literal

from pydantic import Field, field_validator, model_validator

from datasets_app.storage import entries
from datasets_app.synthesis.making import Making, WriterParams, entry_of, rows_file
from datasets_app.synthesis.quality import GROUNDED, HALF, fault_of, has_half
from datasets_app.synthesis.sources import Documents, Proposal, Seeds, Source, Templates, missing_values
from datasets_app.synthesis.writing import Ask, Journal, Written, answered
from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, Row, RowKind
from project.contracts.runs import RunContext

name = "synthesize"
label = "Write rows with a model"
eats: tuple[RowKind, ...] = ()
needs = "cpu"
charts = (("Rows", "accepted,rejected", "Accepted,Rejected"),)

_MOST = 100_000  # rows
_LEAST = 0.05  # rows of an answer that are hoped for at least


class Params(WriterParams):
    """What is written, and how much."""

    kind: Literal["templates", "documents", "seeds"] = Field(description="what the questions are made from")
    num_samples: int = Field(default=100, ge=1, le=_MOST, description="Rows wanted. Fewer come if most are refused.")
    output_format: Literal["chat", "completion"] = Field(default="chat", description="The kind of the rows.")
    template_prompts: tuple[str, ...] = Field(
        default=(), max_length=1000, description="Questions with {placeholders}; the model writes the answers."
    )
    values: dict[str, list[str]] = Field(default={}, description="placeholder -> what may stand there")
    system: str = Field(default="", max_length=20_000, description="Said to the model first, and kept in the rows.")
    instructions: str = Field(default="", max_length=20_000, description="What else the questions should be like.")
    pairs: int = Field(default=3, ge=1, le=20, description="Questions asked for at a time.")
    chunk_characters: int = Field(default=1500, ge=200, le=20_000, description="Length of a piece of a document.")
    min_characters: int = Field(default=1, ge=1, le=10_000, description="Shorter answers are refused.")
    similarity: float = Field(default=0.85, gt=0, le=1, description="Questions that are more alike are refused.")
    grounded: float = Field(
        default=GROUNDED, ge=0, le=1, description="The share of an answer's words that its document must have."
    )
    source_name: str = Field(default="", max_length=255, description="the documents or examples, in words")

    @field_validator("template_prompts")
    @classmethod
    def _have_text(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if any(not template.strip() or len(template) > 20_000 for template in templates):
            raise ValueError("Write 1 to 20,000 characters in each.")
        return templates

    @model_validator(mode="after")
    def _are_complete(self) -> "Params":
        if self.kind == "templates":
            if not self.template_prompts:
                raise ValueError("Write at least one prompt.")
            if missing := missing_values(self.template_prompts, self.values):
                raise ValueError(f"Give values for {', '.join('{' + name + '}' for name in missing)}.")
        return self


def run(params: Params, ctx: RunContext) -> None:
    source = _source(params, ctx)
    journal = Journal(ctx)
    if journal.resumed:
        ctx.log(f"{journal.resumed:,} answers are there already")
    ctx.progress(0, params.num_samples, unit="row", phase="Preparing")
    writer = params.writing(ctx)
    mark = {"by": name, "model": params.writer, "kind": params.kind}
    asks = islice(source.asks(), 20 + 4 * params.num_samples)
    with rows_file(ctx) as file:
        making = Making(ctx, file, mark, params.num_samples)

        for ask, written in answered(asks, writer, journal, ctx, useful=partial(_useful, params, making)):
            assert isinstance(ask, Ask) and written is not None  # noqa: S101
            making.answers += 1
            making.tokens += written.tokens
            _judge(params, source, making, ask, written)
            making.tell(done=making.accepted, again=journal.is_from_before(ask))
            if making.accepted >= params.num_samples:
                break
    making.require_some()
    if making.accepted < params.num_samples:
        ctx.log(f"Only {making.accepted:,} of {params.num_samples:,} rows were good enough", level="warning")
    making.finish(shape=params.output_format, wanted=params.num_samples, source=params.source_name)


def _useful(params: Params, making: Making) -> int:
    """How many more questions the rows that are missing will take, by how it went so far."""
    expected = 1 if params.kind == "templates" else params.pairs
    per_answer = max(making.accepted / making.answers, _LEAST) if making.answers else expected
    return math.ceil((params.num_samples - making.accepted) / per_answer)


def _source(params: Params, ctx: RunContext) -> Source:
    if params.kind == "templates":
        return Templates(
            params.template_prompts,
            params.values,
            system=params.system,
            seed=params.seed,
            again=params.temperature > 0,
        )
    rows = entries(ctx.input("source"))
    if params.kind == "seeds":
        return Seeds(
            rows,
            pairs=params.pairs,
            instructions=params.instructions,
            seed=params.seed,
            similarity=params.similarity,
        )
    return Documents(
        rows,
        characters=params.chunk_characters,
        pairs=params.pairs,
        instructions=params.instructions,
        seed=params.seed,
        similarity=params.similarity,
        grounded=params.grounded if params.quality_filter else 0.0,
    )


def _judge(params: Params, source: Source, making: Making, ask: Ask, written: Written) -> None:
    question = ask.messages[-1].content
    least = params.min_characters
    fault = fault_of(written, least=1 if params.kind != "templates" else least)
    # Of a list that was cut the whole pairs are good; an empty answer is none with or without the filter.
    readable = fault == "cut at max_tokens" and params.kind != "templates"
    if fault and not readable and (params.quality_filter or fault == HALF or not written.text.strip()):
        making.reject(fault, question, written.text)
        return
    proposals = source.proposals(ask, written.text)
    if not proposals:
        making.reject("no question with an answer", question, written.text)
    if written.finish_reason == "length" and params.kind != "templates":
        proposals = proposals[:-1]  # the last one is not whole
    for proposal in proposals:
        if making.accepted >= params.num_samples:
            return
        fault = _fault(params, source, proposal, ask)
        if fault:
            making.reject(fault, proposal.question, proposal.answer)
        else:
            mark = {**making.mark, **proposal.about}
            making.accept(entry_of(_row(params, proposal), mark, proposal.origin))


def _fault(params: Params, source: Source, proposal: Proposal, ask: Ask) -> str:
    if has_half(proposal.question + proposal.answer):
        return HALF
    if not params.quality_filter:
        return ""
    wrong = fault_of(Written(proposal.answer), least=params.min_characters)
    return wrong or source.fault_of(proposal, ask)


def _row(params: Params, proposal: Proposal) -> Row:
    if params.output_format == "completion":
        prompt = f"{params.system}\n\n{proposal.question}" if params.system else proposal.question
        return CompletionRow(prompt=prompt, completion=proposal.answer)
    turns = (Message(role="user", content=proposal.question), Message(role="assistant", content=proposal.answer))
    return ChatRow(messages=(Message(role="system", content=params.system), *turns) if params.system else turns)
