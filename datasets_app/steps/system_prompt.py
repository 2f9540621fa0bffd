"""Give conversations a system prompt, or take it away."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, model_validator

from datasets_app.editing import with_row
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each
from datasets_app.shapes import BadRow
from project.contracts.chat import Message
from project.contracts.rows import ChatRow, PreferenceRow, PromptRow, UnpairedRow

name = "system_prompt"
label = "System prompt"


class Params(StepParams):
    example = {"text": "Be brief."}

    text: str = Field(
        default="", max_length=50_000, description="The system prompt.", json_schema_extra={"multiline": True}
    )
    mode: Literal["add", "replace", "remove"] = Field(
        default="add", description="add where there is none, replace everywhere, or remove."
    )

    @model_validator(mode="after")
    def _has_a_text(self) -> "Params":
        if self.mode != "remove" and not self.text.strip():
            raise ValueError("Write the text of the system prompt.")
        return self


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    def change(entry: Entry) -> Entry:
        match entry.row:
            case ChatRow():
                return with_row(entry, entry.row.model_copy(update={"messages": _with(entry.row.messages, params)}))
            case PreferenceRow() | UnpairedRow() | PromptRow():
                return with_row(entry, entry.row.model_copy(update={"prompt": _with(entry.row.prompt, params)}))
            case _:
                raise BadRow(
                    f'a {entry.row.kind} row has no system prompt. Put {{"type": "convert", "to": "chat"}} first.'
                )

    return each(rows, ctx, change, field="text")


def _with(messages: Sequence[Message], params: Params) -> tuple[Message, ...]:
    rest = tuple(message for message in messages if message.role != "system")
    has_one = len(rest) < len(messages)
    if params.mode == "remove":
        if not rest:
            raise BadRow("there is nothing but a system prompt.")
        return rest
    if params.mode == "add" and has_one:
        return tuple(messages)
    return (Message(role="system", content=params.text), *rest)
