"""Which answers there are, and how often: for data sets that teach a model to choose among labels."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets_app.importing import Entry
from datasets_app.reading import excerpt
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Finding
from project.contracts.rows import RowKind

name = "labels"
label = "Labels"

LONGEST = 80  # characters: a longer answer is no label
MOST = 20_000  # different labels
SHOWN = 50
_LEAST_ROWS = 20
_RARE = 5  # rows
_UNEVEN = 20  # times


class Check(BaseCheck):
    """Keeps the different answers while they look like labels: short, and used twice on average."""

    def __init__(self) -> None:
        self._labels: Counter[str] | None = Counter()
        self._rows = 0

    def see(self, entry: Entry) -> None:
        self._rows += 1
        if self._labels is None:
            return
        answer = _label(entry)
        if answer is None or len(answer) > LONGEST:
            self._labels = None
            return
        self._labels[answer] += 1
        if len(self._labels) > MOST:
            self._labels = None

    def _found(self) -> Counter[str]:
        """The labels; none where the answers are texts."""
        labels = self._labels or Counter[str]()
        return labels if self._rows >= _LEAST_ROWS and 2 * len(labels) <= self._rows else Counter()

    def findings(self) -> Iterable[Finding]:
        labels = self._found()
        if not labels:
            return
        if len(labels) == 1:
            title = f"All {self._rows:,} answers are the same: '{excerpt(next(iter(labels)), 60)}'"
            yield Finding(name, "error", title, self._rows, "The model would learn to say it whatever it is asked.")
            return
        yield from _uneven(labels)
        yield from _rare(labels)
        yield from _spelled_differently(labels)

    def figures(self) -> Mapping[str, Any]:
        labels = self._found()
        if not labels:
            return {}
        most = labels.most_common(SHOWN)
        return {
            "different": len(labels),
            "rows": self._rows,
            "most": max(labels.values()),
            "least": min(labels.values()),
            "shown": [{"label": text, "rows": count} for text, count in most],
            "others": self._rows - sum(count for _, count in most),
        }


def _label(entry: Entry) -> str | None:
    """What the row's model is to answer; of a row with a thumb the thumb; None without a single answer."""
    if entry.value["kind"] == RowKind.UNPAIRED:
        return "good" if entry.value["label"] else "bad"
    if len(entry.texts) < 2:
        return None
    learned = [part.text for part in entry.texts if part.learned]
    return learned[0] if len(learned) == 1 else None


def _uneven(labels: Counter[str]) -> Iterable[Finding]:
    (most, often), (least, seldom) = labels.most_common()[0], labels.most_common()[-1]
    if often >= _UNEVEN * seldom:
        title = f"'{excerpt(most, 40)}' has {often:,} rows, '{excerpt(least, 40)}' {seldom:,}"
        advice = "A model prefers what it saw most. Add rows of the rare labels, or take fewer of the frequent ones."
        yield Finding(name, "warning", title, often, advice)


def _rare(labels: Counter[str]) -> Iterable[Finding]:
    rare = [text for text, count in labels.items() if count < _RARE]
    if rare:
        names = ", ".join(f"'{excerpt(text, 40)}'" for text in rare[:8]) + (", …" if len(rare) > 8 else "")
        title = f"{len(rare):,} labels have" if len(rare) > 1 else "One label has"
        advice = f"{names}. That is too few to learn from, and a part of a split may get none of them."
        yield Finding(name, "warning", f"{title} fewer than {_RARE} rows", len(rare), advice)


def _spelled_differently(labels: Counter[str]) -> Iterable[Finding]:
    spellings: dict[str, list[str]] = {}
    for text in labels:
        spellings.setdefault(" ".join(text.casefold().split()), []).append(text)
    several = [texts for texts in spellings.values() if len(texts) > 1]
    if several:
        names = "; ".join(" and ".join(f"'{excerpt(text, 40)}'" for text in texts) for texts in several[:8])
        title = f"{len(several):,} labels are" if len(several) > 1 else "One label is"
        yield Finding(
            name,
            "warning",
            f"{title} written in more than one way",
            len(several),
            f"{names}. To the model these are different answers, and an exact match counts them as mistakes.",
            fix=(
                {"type": "transform", "operation": "collapse_blanks", "part": "answer"},
                {"type": "transform", "operation": "lowercase", "part": "answer"},
            ),
        )
