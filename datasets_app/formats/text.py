"""Plain text: each paragraph is a row where blank lines separate them, else each line."""

from collections.abc import Iterator

from datasets_app.reading import BadLine, Guess, Head, Record, Source

name = "text"
label = "plain text"
suffixes = (".txt", ".text", ".md")

_STRUCTURED = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".parquet", ".arrow", ".yaml", ".yml", ".xml")


def detect(head: Head) -> Guess | None:
    if head.suffix in _STRUCTURED or head.text.lstrip()[:1] in ("{", "["):
        return None
    unit = "paragraphs, with blank lines between them" if _has_paragraphs(head) else "lines"
    return Guess(0.5 if head.suffix in suffixes else 0.2, unit)


def read(source: Source) -> Iterator[Record | BadLine]:
    return _paragraphs(source) if _has_paragraphs(source.head) else _lines(source)


def _has_paragraphs(head: Head) -> bool:
    """Is there a blank line between two that are not?"""
    text = head.text.strip()
    return bool(text) and any(not line.strip() for line in text.split("\n"))


def _lines(source: Source) -> Iterator[Record | BadLine]:
    for line in source.lines():
        if isinstance(line, BadLine):
            yield line
        elif text := line[1].strip():
            yield Record(line[0], {"text": text})


def _paragraphs(source: Source) -> Iterator[Record | BadLine]:
    """A line that can't be read spoils its paragraph, no other."""
    first, size = 0, 0
    lines: list[str] = []
    bad: BadLine | None = None
    for line in source.lines():
        if isinstance(line, BadLine):
            bad = bad or line
            continue
        number, text = line
        if text.strip():
            first = first or number
            size += len(text)
            if size <= source.limits.line_bytes:
                lines.append(text)
            else:
                bad = bad or BadLine(first, f"the paragraph is longer than {source.limits.line_bytes:,} characters.")
        else:
            yield from _paragraph(first, lines, bad)
            first, size, lines, bad = 0, 0, [], None
    yield from _paragraph(first, lines, bad)


def _paragraph(first: int, lines: list[str], bad: BadLine | None) -> Iterator[Record | BadLine]:
    if bad is not None:
        yield bad
    elif lines:
        yield Record(first, {"text": "".join(lines).strip()})
