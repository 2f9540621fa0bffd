"""Texts that are almost the same, by MinHash over 5-character shingles (Broder 1997) and banding. Pure.

Characters instead of words, because Japanese and Thai have no blanks between words. Capitals and runs of blanks make no
difference. What is found is an estimate: with 60 permutations a similarity of 0.85 is known to about ± 0.05.
Memory: 240 bytes a text. Of a text the first 4,000 characters count.
"""

from typing import Any

PERMUTATIONS, BANDS = 60, 12  # 12 bands of 5: of pairs with a similarity of 0.8, 99 of 100 become candidates
THRESHOLD = 0.85
BYTES_A_TEXT = PERMUTATIONS * 4
_SHINGLE = 5
_READ = 4_000  # characters
_BATCH = 1024
_SEED = 7


class NearDuplicates:
    """Takes texts one by one; `repeats()` says at the end which are almost the same as an earlier one."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self._waiting: list[str] = []
        self._signatures = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> None:
        self._waiting.append(" ".join(text[: 2 * _READ].split())[:_READ].casefold())
        self._count += 1
        if len(self._waiting) >= _BATCH:
            self._sign()

    def _sign(self) -> None:
        if self._waiting:
            self._signatures += signatures(self._waiting).tobytes()
            self._waiting = []

    def repeats(self) -> list[tuple[int, int, float]]:
        """(place of the later text, place of the earlier one, similarity from 0 to 1), in order of the later.

        Places count from 0. Each later text is named once, with the earliest text that it resembles.
        """
        import numpy as np

        self._sign()
        if self._count < 2:
            return []
        matrix = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS)
        best: dict[int, tuple[int, float]] = {}
        width = PERMUTATIONS // BANDS
        for band in range(BANDS):
            for later, earlier in _pairs(matrix[:, band * width : (band + 1) * width]):
                alike = (matrix[later] == matrix[earlier]).mean(axis=1)
                kept = np.flatnonzero(alike >= self.threshold)
                for place, other, share in zip(
                    later[kept].tolist(), earlier[kept].tolist(), alike[kept].tolist(), strict=True
                ):
                    if place not in best or other < best[place][0]:
                        best[place] = (other, share)
        return [(place, *best[place]) for place in sorted(best)]


def _pairs(band: Any, at_once: int = 65_536) -> Any:
    """(later places, earlier places) of texts with an equal band, in portions. Each is paired with its run's first."""
    import numpy as np

    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = (keys ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    order = np.argsort(keys, kind="stable")  # equal keys stay in the order of the rows
    same = keys[order][1:] == keys[order][:-1]
    repeats = np.flatnonzero(same) + 1
    places = np.arange(len(order))
    places[repeats] = 0
    firsts = np.maximum.accumulate(places)  # the place in `order` where the run of equals begins
    for start in range(0, len(repeats), at_once):
        chosen = repeats[start : start + at_once]
        yield order[chosen], order[firsts[chosen]]


def signatures(texts: list[str]) -> Any:
    """A matrix [texts, PERMUTATIONS] of 32-bit numbers: the share of equal ones in two rows estimates Jaccard."""
    import numpy as np
    from rensa import RMinHash  # type: ignore[import-untyped]

    padded = [text.ljust(_SHINGLE) for text in texts]
    sizes = np.array([len(text) for text in padded], dtype=np.int64)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    shingles = np.zeros(len(codes) - _SHINGLE + 1, dtype=np.uint64)
    for step in range(_SHINGLE):
        shingles = (shingles ^ codes[step : len(codes) - _SHINGLE + 1 + step]) * np.uint64(0x9E3779B97F4A7C15)
        shingles ^= shingles >> np.uint64(32)
    ends = np.cumsum(sizes)
    whole = np.ones(len(shingles), dtype=bool)  # not those that reach from one text into the next
    for back in range(1, _SHINGLE):
        whole[ends[:-1] - back] = False
    offsets = np.concatenate([[0], np.cumsum(sizes - _SHINGLE + 1)]).astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(shingles[whole], offsets, PERMUTATIONS, _SEED).to_rows()
    return np.array(rows, dtype=np.uint32)
