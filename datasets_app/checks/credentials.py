"""Keys, tokens and private keys. A model that has learned one gives it away."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets_app import credentials
from datasets_app.importing import Entry
from datasets_app.looking import matching
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding

name = "credentials"
label = "Keys and tokens"


class Check(BaseCheck):
    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._found = Examples()

    def see_all(self, entries: Sequence[Entry]) -> None:
        for entry in matching(entries, credentials.WORTH_A_LOOK):
            self.see(entry)

    def see(self, entry: Entry) -> None:
        kinds: dict[str, str] = {}
        for part in entry.texts:
            for piece in credentials.find(part.text):
                kinds.setdefault(piece.kind, part.where)
        if kinds:
            self._kinds.update(kinds.keys())
            self._found.add(entry, "; ".join(f"{kind} in the {where}" for kind, where in kinds.items()))

    def findings(self) -> Iterable[Finding]:
        if self._found.count:
            count = self._found.count
            kinds = ", ".join(f"{kind} in {rows:,}" for kind, rows in self._kinds.most_common())
            yield Finding(
                name,
                "error",
                f"{count:,} rows hold a key or a token" if count > 1 else "One row holds a key or a token",
                count,
                f"{kinds}. Withdraw it where it is real, and replace it here: a model gives away what it learned.",
                tuple(self._found.kept),
                ({"type": "redact", "kinds": ["credentials"]},),
            )

    def figures(self) -> Mapping[str, Any]:
        return dict(self._kinds)
