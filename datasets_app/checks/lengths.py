"""How long the rows are, in characters: what decides the sequence length, the time and the cost of training."""

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Example, Finding

name = "lengths"
label = "Lengths"

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_BARS = 24
_OUTLIER = 20  # times the 99th percentile's row


class Check(BaseCheck):
    """Keeps 8 bytes a row."""

    def __init__(self) -> None:
        self._all = array("I")
        self._learned = array("I")
        self._longest = (0, 0, 0)  # characters, row, line

    def see(self, entry: Entry) -> None:
        total = learned = 0
        for part in entry.texts:
            total += len(part.text)
            if part.learned:
                learned += len(part.text)
        self._all.append(total)
        self._learned.append(learned)
        self._longest = max(self._longest, (total, -entry.number, entry.line))

    def findings(self) -> Iterable[Finding]:
        if not self._all:
            return
        import numpy as np

        typical = float(np.percentile(np.frombuffer(self._all, dtype=np.uint32), 99))
        longest, row, line = self._longest
        if longest > 2000 and longest > _OUTLIER * max(typical, 1):
            yield Finding(
                name,
                "warning",
                f"The longest row has {longest:,} characters, the others far fewer",
                1,
                "It will be cut at the sequence length, or make every batch it is in slow. Split or remove it.",
                (Example(-row, line, f"{longest:,} characters; 99 of 100 rows have at most {typical:,.0f}"),),
                ({"type": "filter", "condition": f"length <= {max(2000, math.ceil(_OUTLIER * typical))}"},),
            )

    def figures(self) -> Mapping[str, Any]:
        if not self._all:
            return {}
        return {"unit": "characters", "rows": _figure(self._all), "answers": _figure(self._learned)}


def _figure(lengths: "array[int]") -> dict[str, Any]:
    """Percentiles, and a histogram up to the 99th percentile with everything longer in the last bar."""
    import numpy as np

    values = np.frombuffer(lengths, dtype=np.uint32)
    percentiles = np.percentile(values, PERCENTILES)
    width = _round_up(max(float(percentiles[-1]), 1.0) / _BARS)
    counts = np.bincount(np.minimum(values // width, _BARS).astype(np.int64), minlength=_BARS + 1)
    last = max(int(np.flatnonzero(counts[:_BARS])[-1]) + 1 if counts[:_BARS].any() else 1, 1)
    bars = [{"from": i * width, "to": (i + 1) * width, "rows": int(counts[i])} for i in range(last)]
    if counts[_BARS]:
        bars.append({"from": _BARS * width, "to": int(values.max()) + 1, "rows": int(counts[_BARS])})
    return {
        "least": int(values.min()),
        "most": int(values.max()),
        "mean": round(float(values.mean()), 1),
        "total": int(values.sum(dtype=np.int64)),
        "percentiles": {str(p): round(float(v), 1) for p, v in zip(PERCENTILES, percentiles, strict=True)},
        "histogram": bars,
    }


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …: bars people can read."""
    power = 10 ** math.floor(math.log10(width)) if width >= 1 else 1
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= width))
