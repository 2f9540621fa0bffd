"""The recipe `augment`: the rows of a version, each followed by how a model puts it in other words.

Inputs: `source`, and `writer` (an endpoint), or `base` and perhaps `adapter`.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Literal

from pydantic import Field

from datasets_app.editing import Part, change_texts
from datasets_app.importing import Entry
from datasets_app.preparing import chance
from datasets_app.shapes import BadRow
from datasets_app.storage import count, entries
from datasets_app.synthesis.making import Making, WriterParams, copy_of, rows_file
from datasets_app.synthesis.quality import HALF, fault_of, has_half
from datasets_app.synthesis.writing import Ask, Item, Journal, Written, answered
from project.contracts.chat import Message
from project.contracts.rows import RowKind
from project.contracts.runs import RunContext, UserError

name = "augment"
label = "Put rows in other words"
eats: tuple[RowKind, ...] = ()
needs = "cpu"
charts = (("Copies", "accepted,rejected", "Accepted,Rejected"),)

LONGER, SHORTER = 3.0, 0.33  # a paraphrase of more or less of the length is none


class Params(WriterParams):
    """What is put in other words, and how."""

    manner: Literal["paraphrase", "back_translation"] = Field(
        default="paraphrase", description="paraphrase, or back_translation: into another language and back."
    )
    through: str = Field(default="German", min_length=2, max_length=60, description="The language in between.")
    part: Part = Field(default="prompt", description="Where: prompt, answer or system.")
    share: float = Field(default=1.0, gt=0, le=1, description="The share of rows that get copies.")
    copies: int = Field(default=1, ge=1, le=10, description="Copies per row.")
    source_name: str = Field(default="", max_length=255, description="the version it starts from")


def run(params: Params, ctx: RunContext) -> None:
    source = ctx.input("source")
    total = count(source)
    journal = Journal(ctx)
    if journal.resumed:
        ctx.log(f"{journal.resumed:,} answers are there already")
    ctx.progress(0, total, unit="row", phase="Preparing")
    writer = params.writing(ctx)
    mark = {"by": name, "model": params.writer, "method": params.manner}
    passed, kind = 0, ""
    with rows_file(ctx) as file:
        making = Making(ctx, file, mark, total)
        made: set[str] = set()
        asked = _items(params, entries(source), making)
        for item, written in answered(asked, writer, journal, ctx):
            if isinstance(item, Entry):
                made = {item.hash}
                kind = item.kind.value
                making.add(item)
                passed += 1
            elif written is not None:
                making.answers += 1
                making.tokens += written.tokens
                _judge(params, making, item, written, made)
                making.tell(done=passed, again=journal.is_from_before(item))
    if not making.answers:
        raise UserError(f"No row has a text in its {params.part} to put in other words.", field="part")
    making.require_some()
    making.finish(shape=kind, source=params.source_name)


def _items(params: Params, rows: Iterator[Entry], making: Making) -> Iterator[Item]:
    """Every row, followed by the questions for its copies. Which rows get some depends on the row and the seed.

    A row that can't be changed stays; that it gets no copies is told as a reject.
    """
    number = 0
    for entry in rows:
        yield entry
        if chance(f"{params.seed}", name, entry.hash).random() >= params.share:
            continue
        try:
            text = _text(params, entry)
        except BadRow as error:
            making.reject(f"the row can't be changed: {error}", entry.data, "")
            continue
        if text:
            for copy in range(params.copies):
                yield _ask(params, entry, text, number, copy)
                number += 1


def _text(params: Params, entry: Entry) -> str:
    """The one text that is put in other words: of several turns the last; '' where there is none."""
    found: list[str] = []

    def see(text: str) -> str:
        found.append(text)
        return text

    change_texts(entry, see, params.part)
    return next((text for text in reversed(found) if text.strip()), "")


def _ask(params: Params, entry: Entry, text: str, number: int, copy: int) -> Ask:
    if params.manner == "paraphrase":
        task = (
            "Say the text below in other words, in the same language, with the same meaning, names, numbers and "
            "placeholders. Write only the new text."
        )
        return Ask(number, _said(task, text), copy, (entry, text))
    task = f"Translate the text below into {params.through}. Write only the translation."
    return Ask(number, _said(task, text), copy, (entry, text), partial(_back, text))


def _back(text: str, translated: str) -> tuple[Message, ...]:
    """The way back; none for what can't be sent, which is refused as it is."""
    if has_half(translated):
        return ()
    task = (
        "Translate the text below into the language of this sample, and write only the translation.\n"
        f"Sample: {text[:80]}"
    )
    return _said(task, translated)


def _said(task: str, text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=f"{task}\n\nText:\n{text}"),)


def _judge(params: Params, making: Making, ask: Ask, written: Written, made: set[str]) -> None:
    entry, text = ask.about
    new = written.text.strip().strip('"').strip()
    fault = fault_of(written, least=1)
    if not fault and params.quality_filter:
        fault = _fault(text, new)
    if fault and (params.quality_filter or fault == HALF or not new):
        making.reject(fault, text, written.text)
        return
    try:
        copy = change_texts(entry, lambda old: new if old == text else old, params.part)
    except BadRow as error:  # too long for a row
        making.reject(f"no row can hold it: {error}", text, written.text)
        return
    if copy.hash in made:
        making.reject("the same words again", text, new)
        return
    made.add(copy.hash)
    making.accept(copy_of(copy, entry, making.mark))


def _fault(text: str, new: str) -> str:
    if _words(new) == _words(text):
        return "the same words again"
    if not SHORTER <= len(new) / len(text) <= LONGER:
        return "of another length"
    lost = set(re.findall(r"\d+|\{\w+\}|https?://\S+", text)) - set(re.findall(r"\d+|\{\w+\}|https?://\S+", new))
    return f"lost: {', '.join(sorted(lost)[:5])}" if lost else ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
