"""Files as people send them, for the tests of every way in."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from datasets_app.importing import Entry, Importing, Options
from datasets_app.reading import Limits

PAIRS = [
    {"prompt": "Where is my card?", "completion": "card_arrival"},
    {"prompt": "كيف حالك؟", "completion": "بخير، شكرًا"},
    {"prompt": "東京の天気は？", "completion": "晴れです。"},
    {"prompt": 'Zero\u200bwidth and "quotes", commas; semicolons', "completion": "👩‍🚀 two\nlines"},
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rows.jsonl", jsonl(PAIRS))
    return buffer.getvalue()


def one_bad_line(rows: int = 10_000, bad: int = 5_001) -> bytes:
    lines = [json.dumps({"prompt": f"question {n}", "completion": f"answer {n}"}) for n in range(1, rows + 1)]
    lines[bad - 1] = '{"prompt": "question", "completion": '
    return ("\n".join(lines) + "\n").encode()


# what a user does wrong -> (file name, content, the field that is named, words of the answer)
BAD_FILES: dict[str, tuple[str, bytes, str, list[str]]] = {
    "empty": ("rows.jsonl", b"", "file", ["rows.jsonl is empty"]),
    "blank": ("rows.jsonl", b"\xef\xbb\xbf \n\n ", "file", ["is empty"]),
    "binary": ("rows.csv", b"text,label\n\x00\x01\x02", "file", ["binary", "byte 12"]),
    "zip": ("rows.jsonl", zipped(), "file", ["ZIP archive or an Excel workbook", "Unpack it"]),
    "web page": ("rows.jsonl", b"<!DOCTYPE html><html><body>403</body></html>", "file", ["web page (HTML)"]),
    "utf-16": ("rows.csv", "prompt,completion\na,b\n".encode("utf-16"), "file", ["UTF-16", "UTF-8"]),
    "latin-1": (
        "rows.csv",
        "prompt,completion\ncafé,coffee\n".encode("latin-1"),
        "file",
        ["Line 2: byte 0xE9 at position 4", "UTF-8"],
    ),
    "one bad line": ("rows.jsonl", one_bad_line(), "file", ["Line 5,001", "column", "skip_bad_lines"]),
    "missing columns": (
        "rows.csv",
        b"question,label\nWhere?,here\n",
        "columns",
        ["question, label", '{"prompt": "question", "completion": "label"}'],
    ),
    "a row without its column": (
        "rows.jsonl",
        jsonl([*PAIRS, {"prompt": "x", "response": "y"}]),
        "file",
        ["Line 5", "the column 'completion' is missing (found: prompt, response)"],
    ),
    "nothing to learn": (
        "rows.jsonl",
        jsonl([{"prompt": "x", "completion": " "}] * 3),
        "file",
        ["None of the 3 rows", "Every completion is empty"],
    ),
    "no assistant": (
        "rows.jsonl",
        jsonl([{"messages": [{"role": "user", "content": "hi"}]}]),
        "file",
        ["None of the 1 rows", "assistant"],
    ),
    "only bad lines": ("rows.jsonl", b'{"prompt": "a", "completion": "b\n' * 3, "file", ["no usable row", "3 lines"]),
    "header only": ("rows.csv", b"prompt,completion\n", "file", ["holds no rows"]),
    "empty list": ("rows.json", b"[]", "file", ["holds no rows"]),
    "NaN": ("rows.jsonl", b'{"prompt": "a", "completion": NaN}\n', "file", ["Line 1", "NaN is not JSON"]),
    "Infinity": ("rows.json", b'[{"prompt": "a",\n "completion": -Infinity}]', "file", ["Line 1", "-Infinity is not"]),
    "number too large": (
        "rows.jsonl",
        b'{"prompt": "a", "completion": "b", "score": 1e999}\n',
        "file",
        ["Line 1", "number too large"],
    ),
    "duplicate keys": (
        "rows.jsonl",
        b'{"prompt": "a", "prompt": "b", "completion": "c"}\n',
        "file",
        ["Line 1", "the key 'prompt' appears twice"],
    ),
    "deep": (
        "rows.jsonl",
        jsonl(PAIRS) + b'{"prompt": "a", "completion": "b", "x": ' + b"[" * 100 + b"]" * 100 + b"}\n",
        "file",
        ["Line 5", "nested more than 64 levels"],
    ),
    "bottomless": ("rows.jsonl", b'{"prompt": ' + b"[" * 100_000 + b"\n", "file", ["Line 1", "nested more than 64"]),
    "bottomless list": ("rows.json", b"[" * 100_000, "file", ["line 1", "nested more than 64 levels"]),
    "half a character": (
        "rows.jsonl",
        b'{"prompt": "a", "completion": "\\ud83d"}\n',
        "file",
        ["Line 1", "half a character (\\ud83d"],
    ),
    "one object": ("rows.json", b'{\n "data": [{"prompt": "a", "completion": "b"}]\n}', "file", ["one JSON object"]),
    "cut JSON": (
        "rows.json",
        b'[{"prompt": "a", "completion": "b"},\n {"prompt": "c", "comp',
        "file",
        ["line 2, column 18", "unterminated string"],
    ),
    "wrong comma": ("rows.json", b'[{"prompt": "a", "completion": "b"},\n]', "file", ["line 2, column 1", "','"]),
    "no comma": (
        "rows.json",
        b'[{"prompt": "a", "completion": "b"}\n {"prompt": "c"}]',
        "file",
        ["line 2, column 2", "expecting ','"],
    ),
    "too many values": (
        "rows.csv",
        b"prompt,completion\na,b\na, with comma,b\n",
        "file",
        ["Line 3", "3 values", "2 columns", "in quotes"],
    ),
    "open quote": ("rows.csv", b'prompt,completion\na,b\n"c,d\ne,f\n', "file", ["Line 3", "quote", "not closed"]),
    "double column": ("rows.csv", b"prompt,prompt\na,b\n", "file", ["line 1", "two columns named 'prompt'"]),
    "not a list": ("rows.jsonl", b'{"messages": 3}\n', "columns", ["messages"]),
    "unknown role": (
        "rows.jsonl",
        jsonl([{"messages": [{"role": "wizard", "content": "hi"}, {"role": "assistant", "content": "yes"}]}]),
        "file",
        ["Line 1", "message 1", '"wizard"', "system, user, assistant or tool"],
    ),
    "tool calls": (
        "rows.jsonl",
        jsonl([{"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}]),
        "file",
        ["Line 1", "tool_calls", "can't be imported yet"],
    ),
    "null": ("rows.jsonl", b'{"prompt": null, "completion": "b"}\n', "file", ["Line 1", "'prompt' is null"]),
    "object as text": (
        "rows.jsonl",
        b'{"prompt": {"a": 1}, "completion": "b"}\n',
        "file",
        ["Line 1", "'prompt' has to be a text, it is an object"],
    ),
    "strange names": ("rows.jsonl", b'{"": "a", "\\u0000": "b", "x\\ny": "c"}\n', "columns", ["what to learn"]),
    "plain text": ("book.txt", b"It was the best of times,\nit was the worst of times\nand so\n", "file", ["book.txt"]),
}  # fmt: skip


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def imported(path: Path, *, limits: Limits | None = None, **options: Any) -> list[Entry]:
    """Every row of a file."""
    return list(Importing(path, Options(**options, limits=limits or Limits())).rows())
