"""What is wrong with a text that a model wrote, in words; and whether it says what a document says. Pure.

Everything here is judged by rules that are the same for every run: no other model is asked.
"""

import re
import zlib
from collections.abc import Iterable

from datasets_app.near import BANDS, PERMUTATIONS, THRESHOLD, signatures
from datasets_app.synthesis.writing import REFUSED, Written

GROUNDED = 0.7  # the share of an answer's words that its document must have
_REFUSAL = re.compile(
    r"\W*(i['’]?m sorry|i am sorry|sorry, (but )?i|i can(no|['’])t (help|assist|provide|do)|i cannot\b|i am unable"
    r"|as an ai\b|as a language model)",
    re.IGNORECASE,
)
_NO_BLANKS = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts without blanks
HALF = "half a character, which no row can hold"  # refused with and without the quality filter
_HALF = re.compile("[\ud800-\udfff]")
_LONG, _FLAT = 200, 0.12  # from so many characters a text that packs to less of its size repeats itself


def fault_of(written: Written, *, least: int) -> str:
    """Why an answer is no good at all, '' if it may be. `least` is in characters."""
    text = written.text.strip()
    if written.finish_reason.startswith(REFUSED):
        return "the endpoint would not take the question"
    if not text:
        return "empty"
    if has_half(text):
        return HALF
    if len(text) < least:
        return "too short"
    if written.finish_reason == "length":
        return "cut at max_tokens"
    if _REFUSAL.match(text):
        return "the model declined"
    packed = len(zlib.compress(text.encode(), 6)) / len(text.encode())
    return "repeats itself" if len(text) >= _LONG and packed < _FLAT else ""


def has_half(text: str) -> bool:
    """Is there half of a surrogate pair in it? JSON can say so (\\ud83d), and no UTF-8 can be made of it."""
    return _HALF.search(text) is not None


class Alike:
    """Remembers texts; says of a new one whether it is almost the same as one of them (MinHash, 5-character shingles).

    Memory: about 1.5 kB a text.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._rows: list[bytes] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def is_new(self, text: str) -> bool:
        """True for a text unlike all before it, which is then remembered."""
        import numpy as np

        row = signatures([" ".join(text.split()).casefold()])[0]
        width = PERMUTATIONS // BANDS
        keys = [(band, row[band * width : (band + 1) * width].tobytes()) for band in range(BANDS)]
        for place in {place for key in keys for place in self._bands.get(key, ())}:
            if (np.frombuffer(self._rows[place], dtype=np.uint32) == row).mean() >= self._threshold:
                return False
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._rows))
        self._rows.append(row.tobytes())
        return True


def missing_words(answer: str, document: str, *, question: str = "") -> tuple[float, list[str]]:
    """(share of the answer's words that the document has, the words it lacks).

    Words of the question do not count, short ones neither; numbers must be there exactly, of other words the first six
    letters. In scripts without blanks pairs of characters stand for words.
    """
    known, asked = _stems(document), _stems(question)
    wanted = {stem: word for stem, word in _stems(answer).items() if stem not in asked}
    lacking = [word for stem, word in wanted.items() if stem not in known]
    return (1 - len(lacking) / len(wanted) if wanted else 1.0), lacking


def is_grounded(answer: str, document: str, *, question: str, share: float = GROUNDED) -> str:
    """Why the answer is not what the document says; '' if it is."""
    found, lacking = missing_words(answer, document, question=question)
    numbers = [word for word in lacking if any(character.isdigit() for character in word)]
    if numbers:
        return f"not in the document: {', '.join(numbers[:5])}"
    return f"not in the document: {', '.join(lacking[:5])}" if found < share else ""


def _stems(text: str) -> dict[str, str]:
    """What is compared -> the word as written."""
    return {stem: word for word in re.findall(r"\w+(?:[.,]\d+)*", text.casefold()) for stem in _stem(word)}


def _stem(word: str) -> Iterable[str]:
    if any(character.isdigit() for character in word):
        return (word.strip("_"),)
    if _NO_BLANKS.search(word):
        return [word[place : place + 2] for place in range(max(len(word) - 1, 1))]
    return (word[:6],) if len(word) > 3 else ()
