"""Cut long texts, or drop the oldest turns of long conversations."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from datasets_app.editing import Part, change_texts, with_row
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each
from project.contracts.rows import ChatRow

name = "truncate"
label = "Truncate"


class Params(StepParams):
    example = {"characters": 20}

    characters: int | None = Field(default=None, ge=1, description="The longest a text may be.")
    turns: int | None = Field(
        default=None, ge=1, description="The most messages of a conversation besides the system prompt: the last ones."
    )
    part: Part = Field(default="all", description="Which texts are cut: all, prompt, answer or system.")
    cut: Literal["end", "start", "middle"] = Field(default="end", description="What is cut away of a long text.")
    words: bool = Field(default=True, description="Cut between words where there is a blank.")
    mark: str = Field(default="", max_length=20, description="What to put where something is missing, such as …")

    @model_validator(mode="after")
    def _does_something(self) -> "Params":
        if self.characters is None and self.turns is None:
            raise ValueError("Say how many characters or turns are left.")
        if self.characters is not None and len(self.mark) >= self.characters:
            raise ValueError("The mark is as long as what is left.")
        return self


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    def change(entry: Entry) -> Entry:
        if params.turns is not None:
            entry = _last_turns(entry, params.turns)
        return change_texts(entry, lambda text: shortened(text, params), params.part)

    return each(rows, ctx, change, field="characters")


def _last_turns(entry: Entry, most: int) -> Entry:
    """A tool's answer does not come first: its question would be gone."""
    if not isinstance(entry.row, ChatRow):
        return entry
    system = [m for m in entry.row.messages if m.role == "system"]
    talk = [m for m in entry.row.messages if m.role != "system"]
    if len(talk) <= most:
        return entry
    last = talk[-most:]
    while len(last) > 1 and last[0].role != "user":
        last = last[1:]
    return with_row(entry, entry.row.model_copy(update={"messages": (*system, *last)}))


def shortened(text: str, params: Params) -> str:
    """The text with at most `characters`, the mark included."""
    if params.characters is None or len(text) <= params.characters:
        return text
    room = params.characters - len(params.mark)
    match params.cut:
        case "end":
            return _front(text, room, params.words) + params.mark
        case "start":
            return params.mark + _back(text, room, params.words)
        case _:
            front = _front(text, (room + 1) // 2, params.words)
            return front + params.mark + _back(text, room - (room + 1) // 2, params.words)


def _front(text: str, room: int, words: bool) -> str:
    cut = text[:room]
    if words and room < len(text) and not text[room].isspace() and (blank := _last_blank(cut)) > 0:
        cut = cut[:blank]
    return cut.rstrip() if words else cut


def _back(text: str, room: int, words: bool) -> str:
    return _front(text[::-1], room, words)[::-1]


def _last_blank(text: str) -> int:
    """Where the last word of a text begins, less its blank; -1 without a blank in its second half."""
    for place in range(len(text) - 1, len(text) // 2, -1):
        if text[place].isspace():
            return place
    return -1
