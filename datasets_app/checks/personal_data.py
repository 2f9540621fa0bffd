"""E-mail addresses, phone numbers, cards, accounts: what a model may repeat to anybody who asks."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets_app.importing import Entry
from datasets_app.looking import matching
from datasets_app.pii import KINDS, WORTH_A_LOOK, Detector
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding

name = "personal_data"
label = "Personal data"


class Check(BaseCheck):
    def __init__(self) -> None:
        self._detector = Detector()
        self._kinds: Counter[str] = Counter()
        self._found = Examples()

    def see_all(self, entries: Sequence[Entry]) -> None:
        for entry in matching(entries, WORTH_A_LOOK):
            self.see(entry)

    def see(self, entry: Entry) -> None:
        kinds: dict[str, str] = {}
        for part in entry.texts:
            for piece in self._detector.find(part.text):
                kinds.setdefault(piece.kind, part.where)
        if kinds:
            self._kinds.update(kinds.keys())
            self._found.add(entry, "; ".join(f"{KINDS[kind]} in the {where}" for kind, where in kinds.items()))

    def findings(self) -> Iterable[Finding]:
        if self._found.count:
            count = self._found.count
            kinds = ", ".join(f"{KINDS[kind]} in {rows:,}" for kind, rows in self._kinds.most_common())
            yield Finding(
                name,
                "warning",
                f"{count:,} rows hold what looks like personal data"
                if count > 1
                else "One row holds what looks like personal data",
                count,
                f"{kinds}. A model can repeat it to anybody. Replace it, unless these people do not exist. "
                "Names of people are not looked for.",
                tuple(self._found.kept),
                ({"type": "redact"},),
            )

    def figures(self) -> Mapping[str, Any]:
        return dict(self._kinds)
