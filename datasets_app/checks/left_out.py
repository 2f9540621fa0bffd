"""What messages say besides role and content, and no row keeps: thoughts, marks for the loss, other formats' names."""

from collections import Counter
from collections.abc import Iterable

from datasets_app.importing import Entry
from datasets_app.reading import excerpt
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Finding

name = "left_out"
label = "Left out of messages"

_SHOWN = 20


class Check(BaseCheck):
    def __init__(self) -> None:
        self._keys: Counter[str] = Counter()

    def see(self, entry: Entry) -> None:
        if entry.left_out:
            self._keys.update(entry.left_out)

    def findings(self) -> Iterable[Finding]:
        for key, count in self._keys.most_common(_SHOWN):
            rows = "1 row" if count == 1 else f"{count:,} rows"
            yield Finding(
                name,
                "info",
                f"'{excerpt(key, 60)}' of the messages is left out in {rows}",
                count,
                "A message keeps role, content, name, weight, tool_calls and tool_call_id. If this is to be learned, "
                "write it into the content; if it marks turns that are not, write weight 0.",
            )
