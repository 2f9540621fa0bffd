"""Rows that are almost the same as an earlier one: other capitals, a word more, a changed number."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from datasets_app.importing import Entry
from datasets_app.near import BYTES_A_TEXT, THRESHOLD, NearDuplicates
from datasets_app.validation import KEPT_EXAMPLES, Example, Finding
from datasets_app.validation import Check as BaseCheck

name = "near_duplicates"
label = "Near duplicates"

MEMORY = 64 * 1024**2  # bytes
COMPARED = MEMORY // (BYTES_A_TEXT + 16)  # rows: the first 262,144 are compared with each other


class Check(BaseCheck):
    """Keeps 256 bytes of each of the first rows, 64 MB in all. Exact duplicates are not counted again."""

    def __init__(self) -> None:
        self._texts = NearDuplicates()
        self._hashes = array("q")
        self._lines = array("q")
        self._rows = 0

    def see(self, entry: Entry) -> None:
        self._rows += 1
        if self._rows <= COMPARED:
            self._texts.add("\n".join(part.text for part in entry.texts))
            self._hashes.append(int(entry.hash[:15], 16))
            self._lines.append(entry.line)

    def findings(self) -> Iterable[Finding]:
        if not self._rows:
            return
        import numpy as np

        first = np.zeros(len(self._hashes), dtype=bool)
        first[np.unique(np.frombuffer(self._hashes, dtype=np.int64), return_index=True)[1]] = True
        found = [alike for alike in self._texts.repeats() if first[alike[0]]]
        if not found:
            return
        count = len(found)
        yield Finding(
            name,
            "warning",
            f"{count:,} rows are almost the same as an earlier one" if count > 1 else "One row almost repeats another",
            count,
            "They count double in training, and on the other side of a split they make the evaluation look better "
            "than it is. Remove them unless small differences are what the model has to learn.",
            tuple(
                Example(row + 1, self._lines[row], f"{share:.0%} the same as row {other + 1:,}")
                for row, other, share in found[:KEPT_EXAMPLES]
            ),
            ({"type": "near_duplicates", "threshold": THRESHOLD},),
        )

    def figures(self) -> Mapping[str, Any]:
        return {"compared": min(self._rows, COMPARED), "rows": self._rows, "threshold": THRESHOLD}
