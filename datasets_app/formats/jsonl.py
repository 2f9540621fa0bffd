"""JSON Lines: one JSON object per line. Blank lines are allowed."""

from collections.abc import Iterator

from datasets_app.formats import _strict_json as strict
from datasets_app.reading import BadLine, Guess, Head, Record, Source

name = "jsonl"
label = "JSON Lines"
suffixes = (".jsonl", ".ndjson", ".jsonlines")


def detect(head: Head) -> Guess | None:
    first, second, *_ = [*(line for line in head.lines if line.strip()), "", ""]
    if not first.lstrip().startswith("{"):
        return None
    if _is_object(first):
        return Guess(1.0, "the first line is a whole JSON object")
    if second.lstrip().startswith("{") or head.suffix in suffixes:
        return Guess(0.8, "the lines begin with '{'")
    if not head.complete and "\n" not in head.text:
        return Guess(0.6, "the first line begins with '{'")
    return None


def read(source: Source) -> Iterator[Record | BadLine]:
    for line in source.lines():
        if isinstance(line, BadLine):
            yield line
            continue
        number, text = line
        if not text.strip():
            continue
        try:
            value = strict.loads(text)
        except strict.NotJson as error:
            yield BadLine(number, str(error))
            continue
        if isinstance(value, dict):
            yield Record(number, value)
        else:
            yield BadLine(number, f"it is {strict.kind_of(value)}; each line has to be an object.")


def _is_object(text: str) -> bool:
    try:
        return isinstance(strict.loads(text), dict)
    except strict.NotJson:
        return False
