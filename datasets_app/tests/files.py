"""Files as people send them, for the tests of every way in."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import zstandard

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


def parquet(columns: dict[str, list[Any]], **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), buffer, **options)
    return buffer.getvalue()


def parquet_bomb() -> bytes:
    """Less than a kilobyte that stands for 10 GB: one text of 10 MB, a thousand times from the dictionary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 10_000_000]))
    pq.write_table(pa.table({"text": texts}), buffer, compression="zstd", dictionary_pagesize_limit=2**30)
    return buffer.getvalue()


def padded_parquet() -> bytes:
    """Some kilobytes that unpack to 70 MB of the same letter."""
    return parquet({"text": ["x" * 70_000_000]}, compression="zstd", use_dictionary=False, write_statistics=False)


def cut_parquet() -> bytes:
    """A real file, whose second half never came: its footer is there no more."""
    whole = parquet({"prompt": [f"question {n}" for n in range(500)], "completion": ["yes"] * 500})
    return whole[: len(whole) // 2]


def long_line() -> bytes:
    """100 MB without a line end, packed into 100 KB."""
    return gzip.compress(b'{"prompt": "' + b"x" * 100_000_000, 1)


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
    "a byte that is no UTF-8": (
        "rows.csv",
        "prompt,completion\nnaïve,cliché\ncafé,coffee\n".encode() + b"caf\xe9,coffee\n",
        "file",
        ["Line 4: byte 0xE9 at position 4", "UTF-8", 'encoding="cp1252"'],
    ),
    "half a UTF-16 file": (
        "rows.csv",
        "prompt,completion\na,b\n".encode("utf-16") + b"\x00",
        "file",
        ["Line 3", "not UTF-16"],
    ),
    "an archive": ("rows.csv", b"\0" * 257 + b"ustar\0" + b"\0" * 100, "file", ["tar archive", "Unpack it"]),
    "damaged gzip": ("rows.jsonl.gz", gzip.compress(jsonl(PAIRS))[:-9], "file", ["damaged", "ends in the middle"]),
    "damaged zstd": (
        "rows.jsonl.zst",
        zstandard.compress(jsonl(PAIRS * 9))[:-9],
        "file",
        ["damaged", "ends in the middle"],
    ),
    "packed twice": ("rows.jsonl.gz", gzip.compress(gzip.compress(jsonl(PAIRS))), "file", ["compressed twice"]),
    "packed web page": ("rows.jsonl.gz", gzip.compress(b"<html><body>404</body></html>"), "file", ["web page"]),
    "damaged Parquet": ("rows.parquet", b"PAR1" + b"x" * 100, "file", ["damaged Parquet file"]),
    "damaged Arrow": ("rows.arrow", b"ARROW1\0\0" + b"x" * 100, "file", ["damaged Arrow file"]),
    "a cut Parquet": ("rows.parquet", cut_parquet(), "file", ["damaged Parquet file", "Copy or write it again"]),
    "a line of 100 MB": (
        "rows.jsonl.gz",
        long_line(),
        "file",
        ["no usable row", "Line 1: it is longer than 8,388,608 bytes"],
    ),
    "a picture": ("rows.jsonl", b"\x89PNG\r\n\x1a\n" + b"x" * 100, "file", ["a picture", "file with the rows"]),
    "a quote that is never closed": (
        "rows.csv",
        b'prompt,completion\na,b\n"c' + b",d\ne,f" * 10_000,
        "file",
        ["Line 3", "quote", "not closed"],
    ),
    "a bomb of Parquet": ("rows.parquet", parquet_bomb(), "file", ["Line 1", "longer than 8,388,608 bytes"]),
    "a padded Parquet": ("rows.parquet", padded_parquet(), "file", ["row group 1", "which no data does"]),
    "Excel's old format": ("rows.csv", b"\xd0\xcf\x11\xe0" + b"x" * 600, "file", ["old Excel", "CSV UTF-8"]),
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
    "an object of other things": (
        "rows.json",
        b'{\n "version": 3,\n "author": "me"\n}',
        "columns",
        ["version, author", "what to learn"],
    ),
    "double keys in an object of rows": (
        "rows.json",
        b'{"version": 1, "version": 2, "data": [{"prompt": "a", "completion": "b"}]}',
        "file",
        ["line 1", "the key 'version' appears twice"],
    ),
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
        ["Line 1", "tool call 1 of message 1", "a function that has a name"],
    ),
    "a user's tool calls": (
        "rows.jsonl",
        jsonl([{"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]}]),
        "file",
        ["Line 1", "only an assistant's turn can call tools"],
    ),
    "tools that are no JSON": (
        "rows.csv",
        b'messages,tools\n"[{""role"": ""user"", ""content"": ""q""}]",weather\n',
        "file",
        ["Line 2", "'tools' has to be JSON"],
    ),
    "pairs without a common beginning": (
        "rows.jsonl",
        jsonl([{"chosen": [{"role": "user", "content": c}], "rejected": [{"role": "user", "content": "b"}]}
               for c in "a"]),
        "file",
        ["Line 1", "do not begin with the same turns"],
    ),
    "a picture in a message": (
        "rows.jsonl",
        jsonl([{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}]),
        "file",
        ["Line 1", "not text (a picture"],
    ),
    "null": ("rows.jsonl", b'{"prompt": null, "completion": "b"}\n', "file", ["Line 1", "'prompt' is null"]),
    "object as text": (
        "rows.jsonl",
        b'{"prompt": {"a": 1}, "completion": "b"}\n',
        "file",
        ["Line 1", "'prompt' has to be a text, it is an object"],
    ),
    "strange names": ("rows.jsonl", b'{"": "a", "\\u0000": "b", "x\\ny": "c"}\n', "columns", ["what to learn"]),
    "plain text named JSON Lines": ("book.jsonl", b"It was the best of times\nand so on\n", "file", ["not recognised"]),
}  # fmt: skip


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def imported(path: Path, *, limits: Limits | None = None, **options: Any) -> list[Entry]:
    """Every row of a file."""
    return list(Importing(path, Options(**options, limits=limits or Limits())).rows())
