"""Texts that are empty or blank. An empty answer teaches the model to say nothing."""

from collections.abc import Iterable

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding, grave

name = "empty_fields"
label = "Empty fields"


class Check(BaseCheck):
    def __init__(self) -> None:
        self._learned = Examples()
        self._given = Examples()
        self._rows = 0

    def see(self, entry: Entry) -> None:
        self._rows += 1
        for part in entry.texts:
            if part.text.strip() or part.may_be_empty:
                continue
            kept = self._learned if part.learned else self._given
            kept.add(entry, f"{part.where} is empty")

    def findings(self) -> Iterable[Finding]:
        if self._learned.count:
            yield Finding(
                name,
                grave(self._learned.count, self._rows),
                f"{self._learned.count:,} answers are empty" if self._learned.count > 1 else "One answer is empty",
                self._learned.count,
                "The model would learn to answer with nothing. Remove these rows or fill the answers in.",
                tuple(self._learned.kept),
                ({"type": "filter", "condition": 'strip(answer) != ""'},),
            )
        if self._given.count:
            yield Finding(
                name,
                "warning",
                f"{self._given.count:,} prompts are empty" if self._given.count > 1 else "One prompt is empty",
                self._given.count,
                "The model would learn to give these answers to nothing at all.",
                tuple(self._given.kept),
                ({"type": "filter", "condition": 'strip(prompt) != ""'},),
            )
