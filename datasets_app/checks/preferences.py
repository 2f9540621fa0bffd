"""Pairs of a better and a worse answer that teach nothing, or teach to be long instead of good."""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding, grave
from project.contracts.rows import RowKind

name = "preferences"
label = "Preference pairs"

_LEAST_PAIRS = 50
_BIASED = 0.7  # of the pairs have the longer answer as the better one
_FAR = 3  # times as long


class Check(BaseCheck):
    def __init__(self) -> None:
        self._pairs = self._longer = self._shorter = 0
        self._chosen = self._rejected = 0  # characters
        self._same, self._nearly, self._far = Examples(), Examples(), Examples()

    def see(self, entry: Entry) -> None:
        if entry.value["kind"] != RowKind.PREFERENCE:
            return
        chosen, rejected = (
            "\n".join(part.text for part in entry.texts if part.where == where) for where in ("chosen", "rejected")
        )
        self._pairs += 1
        self._chosen += len(chosen)
        self._rejected += len(rejected)
        self._longer += len(chosen) > len(rejected)
        self._shorter += len(chosen) < len(rejected)
        if entry.value["chosen"] == entry.value["rejected"]:
            self._same.add(entry, "both answers are the same")
        elif chosen.casefold().split() == rejected.casefold().split():
            self._nearly.add(entry, "the answers differ in capitals and blanks only")
        elif len(chosen) > _FAR * max(len(rejected), 1):
            self._far.add(entry, f"{len(chosen):,} characters are better than {len(rejected):,}")

    def findings(self) -> Iterable[Finding]:
        if count := self._same.count:
            yield Finding(
                name,
                grave(count, self._pairs),
                f"{count:,} pairs have the same answer twice" if count > 1 else "One pair has the same answer twice",
                count,
                "There is nothing to prefer in them. Remove them.",
                tuple(self._same.kept),
                ({"type": "filter", "condition": "chosen != rejected"},),
            )
        if count := self._nearly.count:
            yield Finding(
                name,
                "warning",
                f"{count:,} pairs differ in capitals and blanks only",
                count,
                "The model would learn that difference and nothing else.",
                tuple(self._nearly.kept),
                ({"type": "filter", "condition": "lower(strip(chosen)) != lower(strip(rejected))"},),
            )
        yield from self._bias()

    def _bias(self) -> Iterable[Finding]:
        decided = self._longer + self._shorter
        if decided < _LEAST_PAIRS or max(self._longer, self._shorter) < _BIASED * decided:
            return
        which, share = ("longer", self._longer) if self._longer > self._shorter else ("shorter", self._shorter)
        yield Finding(
            name,
            "warning",
            f"In {share / decided:.0%} of the pairs the {which} answer is the better one",
            share,
            f"Better answers have {self._chosen / self._pairs:,.0f} characters on average, worse ones "
            f"{self._rejected / self._pairs:,.0f}. A model learns the length before it learns anything else: add "
            f"pairs in which the other one is better, or remove the most extreme ones.",
            tuple(self._far.kept),
        )

    def figures(self) -> Mapping[str, Any]:
        if not self._pairs:
            return {}
        return {
            "pairs": self._pairs,
            "chosen_longer": self._longer,
            "rejected_longer": self._shorter,
            "chosen_characters_mean": round(self._chosen / self._pairs, 1),
            "rejected_characters_mean": round(self._rejected / self._pairs, 1),
        }
