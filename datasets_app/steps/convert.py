"""Make rows of one kind into rows of another."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from datasets_app.editing import with_row
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each
from datasets_app.shapes import BadRow
from project.contracts.chat import Message
from project.contracts.rows import (
    ChatRow,
    CompletionRow,
    PreferenceRow,
    PromptRow,
    Row,
    RowKind,
    TextRow,
    UnpairedRow,
)

name = "convert"
label = "Convert to another kind of rows"

_WHO = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


class Params(StepParams):
    example = {"to": "text"}

    to: Literal["chat", "completion", "unpaired", "prompt", "text"] = Field(
        description="chat: conversations. completion: prompt and answer as two texts. unpaired: good and bad answers "
        "(a pair becomes two rows). prompt: without the answers. text: plain text. For pairs: edits_to_pairs."
    )


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    kind = RowKind(params.to)
    if kind == RowKind.UNPAIRED:
        yield from _unpaired(rows, ctx)
        return
    convert = {
        RowKind.CHAT: _chat,
        RowKind.COMPLETION: _completion,
        RowKind.PROMPT: _prompt,
        RowKind.TEXT: _text,
    }[kind]

    def change(entry: Entry) -> Entry | None:
        if entry.kind == kind:
            return entry
        if isinstance(entry.row, UnpairedRow) and not entry.row.label and kind not in (RowKind.PROMPT,):
            return None
        return with_row(entry, convert(entry.row))

    yield from each(rows, ctx, change, field="to", why="its answer is labelled as bad")


def _impossible(row: Row, to: str) -> BadRow:
    return BadRow(f"a {row.kind} row can't become a {to} row.")


def _conversation(row: Row) -> Sequence[Message]:
    """All messages of a row with its (better) answer."""
    match row:
        case ChatRow():
            return row.messages
        case CompletionRow():
            return (Message(role="user", content=row.prompt), Message(role="assistant", content=row.completion))
        case PreferenceRow():
            return (*row.prompt, *row.chosen)
        case UnpairedRow():
            return (*row.prompt, *row.completion)
        case _:
            raise _impossible(row, "chat")


def tools(row: Row) -> dict[str, object]:
    tools = getattr(row, "tools", None)
    return {"tools": tools} if tools else {}


def _chat(row: Row) -> Row:
    return ChatRow.model_validate({"messages": _conversation(row), **tools(row)})


def divided(row: Row) -> tuple[Sequence[Message], Sequence[Message]]:
    """What comes before the last answer, and that answer."""
    match row:
        case PreferenceRow():
            return row.prompt, row.chosen
        case UnpairedRow():
            return row.prompt, row.completion
        case PromptRow():
            return row.prompt, ()
    messages = _conversation(row)
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "assistant"), None)
    if last is None or not last:
        raise BadRow("there is no assistant turn with something before it.")
    return messages[:last], messages[last : last + 1]


def _written(messages: Sequence[Message]) -> str:
    """Several messages as one text, each under the name of its role; one alone is just its text."""
    if any(message.tool_calls for message in messages):
        raise BadRow("a call of a tool can't be written as plain text.")
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{_WHO[message.role]}: {message.content}" for message in messages)


def _completion(row: Row) -> Row:
    if isinstance(row, PromptRow | TextRow):
        raise _impossible(row, "completion")
    prompt, answer = divided(row)
    if any(message.tool_calls for message in answer):
        raise BadRow("a call of a tool can't be written as plain text.")
    return CompletionRow(prompt=_written(prompt), completion="\n".join(message.content for message in answer))


def _prompt(row: Row) -> Row:
    if isinstance(row, TextRow):
        return PromptRow(prompt=(Message(role="user", content=row.text),))
    prompt, _ = divided(row)
    return PromptRow.model_validate({"prompt": prompt, **tools(row)})


def _text(row: Row) -> Row:
    if isinstance(row, CompletionRow):
        return TextRow(text=f"{row.prompt}\n\n{row.completion}")
    if isinstance(row, PromptRow):
        return TextRow(text=_written(row.prompt))
    return TextRow(text=_written(_conversation(row)))


def _unpaired(rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    """A pair becomes a good and a bad row; an answer of any other kind is a good one."""
    for entry in rows:
        row = entry.row
        try:
            if isinstance(row, PreferenceRow):
                for number, (answer, good) in enumerate(((row.chosen, True), (row.rejected, False))):
                    made = {"prompt": row.prompt, "completion": answer, "label": good, **tools(row)}
                    after = with_row(entry, UnpairedRow.model_validate(made))
                    yield ctx.added(after) if number else ctx.changed(entry, after)
            elif isinstance(row, UnpairedRow):
                yield entry
            elif isinstance(row, ChatRow | CompletionRow):
                before, last = divided(row)
                made = {"prompt": before, "completion": last, "label": True, **tools(row)}
                yield ctx.changed(entry, with_row(entry, UnpairedRow.model_validate(made)))
            else:
                raise _impossible(row, "unpaired")
        except BadRow as error:
            ctx.fail(str(error), field="to", entry=entry)
