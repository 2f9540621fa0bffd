"""Rows that occur more than once, exactly. They weigh more in training and leak between a data set's parts."""

from array import array
from collections.abc import Iterable

from datasets_app.importing import Entry
from datasets_app.validation import KEPT_EXAMPLES, Example, Finding
from datasets_app.validation import Check as BaseCheck

name = "duplicates"
label = "Exact duplicates"


class Check(BaseCheck):
    """Keeps 64 bits of each row's hash and its line: 16 bytes a row. Two of 5 million rows collide with p < 10⁻⁶."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._lines = array("Q")

    def see(self, entry: Entry) -> None:
        self._hashes.append(int(entry.hash[:16], 16))
        self._lines.append(entry.line)

    def findings(self) -> Iterable[Finding]:
        if not self._hashes:
            return
        import numpy as np

        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")  # equal hashes stay in the order of the file
        repeats = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        if not len(repeats):
            return
        # The first of a run of equals is the one before the run's first repeat.
        starts = np.maximum.accumulate(np.where(np.isin(np.arange(len(order)), repeats), 0, np.arange(len(order))))
        later = order[repeats]
        chosen = np.argsort(later, kind="stable")[:KEPT_EXAMPLES]
        examples = tuple(
            Example(
                int(later[i]) + 1,
                self._lines[int(later[i])],
                f"the same as row {int(order[starts[repeats[i]]]) + 1:,}",
            )
            for i in chosen
        )
        count = len(repeats)
        yield Finding(
            name,
            "warning",
            f"{count:,} rows repeat an earlier one" if count > 1 else "One row repeats an earlier one",
            count,
            "Repeats count double in training, and a repeat on the other side of a split makes the evaluation look "
            "better than it is. Remove them unless the weight is meant.",
            examples,
            ({"type": "drop_duplicates"},),
        )
