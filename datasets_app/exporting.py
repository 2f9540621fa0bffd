"""A stored version as a file of any format, written to standard output as it is read. Pure.

`python -m datasets_app.exporting FOLDER FORMAT`: a process of its own, so that a download costs the web process nothing
but passing bytes on. Memory: one row group.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_app.storage import FILE
from project.contracts.rows import RowKind
from project.contracts.runs import UserError

Fields = dict[str, Any]
_GROUP_COLUMNS = ["row", "meta"]
_MOST_COLUMNS = 500  # of meta data in a CSV; what has more gets one column `meta`


@dataclass(frozen=True)
class Export:
    """A format people can ask for. `kinds` are the row kinds it can hold."""

    name: str
    label: str
    suffix: str
    content_type: str
    write: Callable[[Path], Iterator[bytes]]
    kinds: tuple[RowKind, ...] = tuple(RowKind)


def formats_for(kind: str) -> list["Export"]:
    """What a version of this row kind can be exported as."""
    return [export for export in EXPORTS.values() if kind in export.kinds]


# --- reading what is stored


def _stored(folder: Path, columns: Sequence[str] = _GROUP_COLUMNS) -> Iterator[list[list[str]]]:
    """Row group by row group: [the row's JSON, the meta data's JSON] of each row."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / FILE) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(columns))
            yield [list(pair) for pair in zip(*(table.column(name).to_pylist() for name in columns), strict=True)]


def _rows(folder: Path) -> Iterator[tuple[Fields, Fields]]:
    """(the row's fields without its kind, the other columns) of each row."""
    for group in _stored(folder):
        for data, meta in group:
            row = json.loads(data)
            del row["kind"]
            yield row, json.loads(meta)


def _beside(row: Fields, meta: Fields) -> Fields:
    """The row with its other columns; one whose name the row uses itself gets `meta_` in front."""
    for column, value in meta.items():
        name = column
        while name in row:
            name = f"meta_{name}"
        row[name] = value
    return row


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


# --- formats


def _jsonl(folder: Path) -> Iterator[bytes]:
    for row, meta in _rows(folder):
        yield _line(_beside(row, meta))


def _csv(folder: Path) -> Iterator[bytes]:
    """With a byte order mark, because Excel takes a file without one for the local encoding."""
    columns: list[str] | None = None
    extra = _meta_columns(folder)
    yield b"\xef\xbb\xbf"
    for row, meta in _rows(folder):
        if columns is None:
            columns = [*_names(folder, row), *(extra if extra is not None else ["meta"])]
            yield _csv_line(columns)
        # The header is made of all columns of all rows, so none is lost.
        row = {name: _plain(name, value) for name, value in row.items()}
        values = _beside(row, meta) if extra is not None else {**row, "meta": meta}
        yield _csv_line([_cell(values.get(column)) for column in columns])


def _names(folder: Path, first: Fields) -> list[str]:
    """The fields of all rows: those of the first, and `tools` when any row has them."""
    if "tools" not in first and any('"tools":[' in data for group in _stored(folder, ["row"]) for (data,) in group):
        return [*first, "tools"]
    return [*first]


def _meta_columns(folder: Path) -> list[str] | None:
    """All columns of the meta data, in the order of their first row; None when there are too many."""
    taken = set(next(_rows(folder))[0]) | {"tools"}
    columns: dict[str, None] = {}
    for group in _stored(folder, ["meta"]):
        for (meta,) in group:
            if meta != "{}":
                columns |= dict.fromkeys(_beside(dict.fromkeys(taken), json.loads(meta)))
        if len(columns) - len(taken) > _MOST_COLUMNS:
            return None
    return [column for column in columns if column not in taken]


def _plain(name: str, value: Any) -> Any:
    """A part that is one turn as its text: that is how these formats have it, and how it is read again."""
    role = "user" if name == "prompt" else "assistant"
    if name in ("prompt", "completion", "chosen", "rejected") and isinstance(value, list) and len(value) == 1:
        return value[0]["content"] if value[0] == {"role": role, "content": value[0]["content"]} else value
    return value


def _csv_line(values: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parquet(folder: Path) -> Iterator[bytes]:
    """Lists and objects are JSON texts: their fields differ from row to row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    names = [*next(_rows(folder))[0]]
    names += ["tools"] if "messages" in names and "tools" not in names else []
    schema = pa.schema(
        [*((name, pa.bool_() if name == "label" else pa.string()) for name in names), ("meta", pa.string())]
    )
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in _stored(folder):
            rows = [json.loads(data) for data, _ in group]
            columns = [[_parquet_value(_plain(name, row.get(name))) for row in rows] for name in names]
            columns.append([meta for _, meta in group])
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def _parquet_value(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


# --- shapes other programs read


def _openai(folder: Path) -> Iterator[bytes]:
    """The fine-tuning file of OpenAI: chat completions, or preference pairs."""
    for row, _ in _rows(folder):
        yield _line(_openai_row(row))


def _openai_row(row: Fields) -> Fields:
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    if "chosen" in row:
        return {
            "input": {"messages": row["prompt"], **tools},
            "preferred_output": row["chosen"],
            "non_preferred_output": row["rejected"],
        }
    return {"messages": conversation(row), **tools}


def conversation(row: Fields) -> list[Fields]:
    """The messages of a row of one conversation."""
    if "messages" in row:
        return list(row["messages"])
    if isinstance(row["prompt"], str):
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    return [*row["prompt"], *row.get("completion", ())]


_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def _sharegpt(folder: Path) -> Iterator[bytes]:
    for row, _ in _rows(folder):
        if "chosen" in row:
            pair = {name: _said(row[name])[0] for name in ("chosen", "rejected")}
            yield _line({"conversations": _said(row["prompt"]), **pair})
        else:
            yield _line({"conversations": _said(conversation(row))})


def _said(messages: Sequence[Fields]) -> list[Fields]:
    return [turn for message in messages for turn in _turns(message)]


def _turns(message: Fields) -> Iterator[Fields]:
    for call in message.get("tool_calls") or ():
        yield {"from": "function_call", "value": json.dumps(call["function"], ensure_ascii=False)}
    if message["content"] or not message.get("tool_calls"):
        yield {"from": _SHAREGPT[message["role"]], "value": message["content"]}


def _alpaca(folder: Path) -> Iterator[bytes]:
    """instruction, input, output; with the system prompt and the turns before as `system` and `history`."""
    for row, _ in _rows(folder):
        yield _line(_alpaca_row(conversation(row)))


def _alpaca_row(messages: Sequence[Fields]) -> Fields:
    system = "\n".join(message["content"] for message in messages if message["role"] == "system")
    talk = [message["content"] for message in messages if message["role"] != "system"]
    answer = talk.pop() if messages[-1]["role"] == "assistant" else ""
    asked = talk.pop() if talk else ""
    history = [talk[start : start + 2] for start in range(0, len(talk), 2)]
    row: Fields = {"instruction": asked, "input": "", "output": answer}
    return row | ({"system": system} if system else {}) | ({"history": history} if history else {})


_ONE_CONVERSATION = (RowKind.CHAT, RowKind.COMPLETION, RowKind.UNPAIRED)
EXPORTS: dict[str, Export] = {
    export.name: export
    for export in (
        Export("jsonl", "JSON Lines", "jsonl", "application/x-ndjson", _jsonl),
        Export("csv", "CSV", "csv", "text/csv; charset=utf-8", _csv),
        Export("parquet", "Parquet", "parquet", "application/vnd.apache.parquet", _parquet),
        Export(
            "openai",
            "OpenAI fine-tuning",
            "openai.jsonl",
            "application/x-ndjson",
            _openai,
            (RowKind.CHAT, RowKind.COMPLETION, RowKind.PREFERENCE),
        ),
        Export(
            "sharegpt",
            "ShareGPT",
            "sharegpt.jsonl",
            "application/x-ndjson",
            _sharegpt,
            (*_ONE_CONVERSATION, RowKind.PREFERENCE, RowKind.PROMPT),
        ),
        Export("alpaca", "Alpaca", "alpaca.jsonl", "application/x-ndjson", _alpaca, (RowKind.CHAT, RowKind.COMPLETION)),
    )
}


def write(folder: Path, name: str, at_once: int = 256 * 1024) -> Iterator[bytes]:
    """The file in pieces of about `at_once` bytes. Raises UserError for an unknown format."""
    if name not in EXPORTS:
        raise UserError(f"Unknown format '{name}'. Known: {', '.join(EXPORTS)}.", field="format")
    waiting, size = [], 0
    for piece in EXPORTS[name].write(folder):
        waiting.append(piece)
        size += len(piece)
        if size >= at_once:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


if __name__ == "__main__":
    for _piece in write(Path(sys.argv[1]), sys.argv[2]):
        sys.stdout.buffer.write(_piece)
