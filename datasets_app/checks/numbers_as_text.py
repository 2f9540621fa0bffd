"""Numbers that were taken as texts. Usually meant (labels 0 to 4), sometimes a wrong column."""

from collections import Counter
from collections.abc import Iterable

from datasets_app.importing import Entry
from datasets_app.reading import excerpt
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Finding

name = "numbers_as_text"
label = "Numbers as text"


class Check(BaseCheck):
    def __init__(self) -> None:
        self._columns: Counter[str] = Counter()

    def see(self, entry: Entry) -> None:
        if entry.as_text:
            self._columns.update(set(entry.as_text))

    def findings(self) -> Iterable[Finding]:
        for column, count in self._columns.items():
            rows = "1 row" if count == 1 else f"{count:,} rows"
            yield Finding(
                name,
                "info",
                f"'{excerpt(column, 60)}' holds numbers in {rows}; they are kept as text",
                count,
                "If they stand for something, words teach the model more than numbers do.",
            )
