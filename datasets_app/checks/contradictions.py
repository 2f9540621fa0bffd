"""The same question with different answers: noise in the labels, or answers that depend on something not given."""

from array import array
from collections.abc import Iterable

from datasets_app.importing import Entry
from datasets_app.validation import KEPT_EXAMPLES, Example, Finding
from datasets_app.validation import Check as BaseCheck
from project.contracts.rows import RowKind

name = "contradictions"
label = "Contradicting answers"


class Check(BaseCheck):
    """Keeps 24 bytes a row. Capitals and blanks of the question make no difference."""

    def __init__(self) -> None:
        self._given = array("q")
        self._hashes = array("q")
        self._places = array("q")
        self._lines = array("q")

    def see(self, entry: Entry) -> None:
        if entry.value["kind"] in (RowKind.CHAT, RowKind.COMPLETION) and any(part.learned for part in entry.texts):
            self._given.append(entry.given_key)
            self._hashes.append(int(entry.hash[:15], 16))
            self._places.append(entry.number)
            self._lines.append(entry.line)

    def findings(self) -> Iterable[Finding]:
        if not self._given:
            return
        import numpy as np

        given, hashes = (np.frombuffer(values, dtype=np.int64) for values in (self._given, self._hashes))
        order = np.argsort(given, kind="stable")
        same = given[order][1:] == given[order][:-1]
        places = np.arange(len(order))
        repeats = np.flatnonzero(same) + 1
        places[repeats] = 0
        firsts = np.maximum.accumulate(places)
        differs = repeats[hashes[order[repeats]] != hashes[order[firsts[repeats]]]]
        if not len(differs):
            return
        later, earlier = order[differs], order[firsts[differs]]
        chosen = np.argsort(later, kind="stable")[:KEPT_EXAMPLES].tolist()
        count = len(differs)
        yield Finding(
            name,
            "warning",
            f"{count:,} rows ask what an earlier row asks, and answer something else"
            if count > 1
            else "One row asks what an earlier row asks, and answers something else",
            count,
            "Both can't be right where one answer is wanted: the model learns to guess. Keep the better one of each; "
            "the step keeps the first.",
            tuple(
                Example(
                    self._places[int(later[i])],
                    self._lines[int(later[i])],
                    f"asks the same as row {self._places[int(earlier[i])]:,}",
                )
                for i in chosen
            ),
            ({"type": "drop_duplicates", "by": "prompt", "ignore_case": True},),
        )
