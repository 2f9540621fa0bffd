"""TSV: a header line, then rows, separated by tabs; quoted as Excel and pandas quote."""

from collections.abc import Iterator

from datasets_app.formats.csv import agreement, read_separated
from datasets_app.reading import BadLine, Guess, Head, Record, Source

name = "tsv"
label = "TSV"
suffixes = (".tsv", ".tab")


def detect(head: Head) -> Guess | None:
    if head.text.lstrip()[:1] in ("{", "["):
        return None
    columns, agreeing = agreement(head, "\t")
    named = head.suffix in suffixes
    if columns < 2:
        return Guess(0.45, "it is named .tsv and has one column") if named and agreeing else None
    if agreeing < 0.9 and not named:
        return None
    return Guess(0.41 + 0.3 * agreeing, f"{columns} columns separated by tab")


def read(source: Source) -> Iterator[Record | BadLine]:
    return read_separated(source, "\t")
