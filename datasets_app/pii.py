"""Personal data in texts: e-mail addresses, phone numbers, cards, accounts and the like. Pure.

Cheap expressions find what could be something; only that is judged, by Presidio's pattern recognisers (checksums of
cards, IBANs and wallets, ranges of social security numbers) and by `phonenumbers`. Names of people are not looked for:
that takes a language model. Nothing is fetched: the list of top-level domains is the one that comes with tldextract.
"""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

# kind -> what a page calls it
KINDS: dict[str, str] = {
    "email": "e-mail addresses",
    "phone": "phone numbers",
    "credit_card": "credit card numbers",
    "iban": "bank accounts (IBAN)",
    "ip": "IP addresses",
    "mac": "MAC addresses",
    "ssn": "US social security numbers",
    "crypto": "Bitcoin wallets",
}
REGIONS = ("US", "GB", "DE")  # whose national phone numbers are known; international ones (+49 …) always are

_LEAST_SCORE = 0.4  # of Presidio: below are patterns without any check, such as nine digits in a row

# What a text needs for a closer look at all.
_WORTH_A_LOOK = re.compile(r"@|\d|[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]|::")
# Phone numbers, cards, IBANs and the like have seven digits with nothing but a few separators between them.
_SEVEN_DIGITS = re.compile(r"\d(?:[ ().\-/+]{0,5}\d){6}")
_NUMBERS = frozenset({"phone", "credit_card", "iban", "ssn"})
_CANDIDATES = {
    "email": re.compile(r"[^\s@]@[\w-]+\."),
    "credit_card": re.compile(r"(?:\d[ -]?){12}\d"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}"),
    "ip": re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}:|::"),
    "mac": re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}|(?:[0-9A-Fa-f]{4}\.){2}"),
    "ssn": re.compile(r"\b\d{3}[- .]\d{2}[- .]\d{4}\b"),
    "crypto": re.compile(r"\b(?:[13]|bc1)[a-zA-Z0-9]{25}"),
}
_PHONE = re.compile(
    r"(?<![A-Za-z0-9_.+])(?:(?P<abroad>(?:\+|00)[1-9][\d ().\-/]{5,24}\d)"
    r"|(?P<home>\(?0(?!\.)[\d ()\-/]{6,20}\d|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}))(?![A-Za-z0-9_])"
)


# For RE2: in the JSON of every row that holds any of it. Where JSON has an escape before it, `\b` would not hold.
WORTH_A_LOOK = "|".join(
    (
        r"\p{Nd}(?:[ ().\-/+]{0,5}\p{Nd}){6}",
        r"@[^\s.@]+\.",
        r"\p{Nd}\.\p{Nd}{1,3}\.\p{Nd}{1,3}\.\p{Nd}|[0-9A-Fa-f]:[0-9A-Fa-f]{1,4}:|::",
        r"(?:[0-9A-Fa-f]{2}[:-]){5}|(?:[0-9A-Fa-f]{4}\.){2}",
        r"(?:[13]|bc1)[a-zA-Z0-9]{25}",
    )
)


class Found(NamedTuple):
    """One piece of personal data: `text[start:end]`."""

    kind: str
    start: int
    end: int


class Detector:
    """Finds personal data of the given kinds; all of them by default. Raises ValueError for an unknown kind."""

    def __init__(self, kinds: Sequence[str] = (), *, regions: Sequence[str] = REGIONS) -> None:
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"Unknown kind of personal data '{unknown[0]}'. Known: {', '.join(KINDS)}.")
        self.kinds = tuple(kinds) or tuple(KINDS)
        self.regions = tuple(regions)

    def find(self, text: str) -> list[Found]:
        """All of it in the order of the text; of two that overlap the longer one."""
        if not _WORTH_A_LOOK.search(text):
            return []
        found: list[Found] = []
        has_number = _SEVEN_DIGITS.search(text) is not None
        if not has_number and _is_plain(text):
            return []
        for kind in self.kinds:
            if not (has_number if kind in _NUMBERS else _has_sign(kind, text)):
                continue
            if kind == "phone":
                found += self._phones(text)
            elif _CANDIDATES[kind].search(text):
                found += [Found(kind, start, end) for start, end in _recognised(kind, text)]
        return without_overlaps(found)

    def redact(self, text: str, replacement: str = "[{kind}]") -> tuple[str, list[Found]]:
        """The text with each piece replaced ('{kind}' becomes its kind, in capitals), and what was found."""
        found = self.find(text)
        for piece in reversed(found):
            text = text[: piece.start] + replacement.replace("{kind}", piece.kind.upper()) + text[piece.end :]
        return text, found

    def _phones(self, text: str) -> Iterator[Found]:
        """Numbers that a numbering plan has: with a country code, or as people write them in one of the regions."""
        for candidate in _PHONE.finditer(text):
            number = candidate.group()
            for region in (None,) if candidate["abroad"] else self.regions:
                if length := _phone_length(number, region):
                    yield Found("phone", candidate.start(), candidate.start() + length)
                    break


def _is_plain(text: str) -> bool:
    """True of most texts without a number: nothing else that is looked for can be in them."""
    if "@" in text or ":" in text or text.count(".") > 1 or text.count("-") > 4:
        return False
    return _CANDIDATES["crypto"].search(text) is None


def _has_sign(kind: str, text: str) -> bool:
    """Has the text what every match has? Counting characters is ten times cheaper than an expression."""
    match kind:
        case "email":
            return "@" in text
        case "ip":
            return ":" in text or text.count(".") >= 3
        case "mac":
            return text.count(":") >= 5 or text.count("-") >= 5 or text.count(".") >= 2
        case _:
            return True


def _phone_length(candidate: str, region: str | None) -> int:
    """How much of the candidate is a valid number: all of it, or without the last groups ('… 0958 2024'). 0 is none."""
    import phonenumbers

    for _ in range(3):
        written = "+" + candidate[2:] if region is None and candidate.startswith("00") else candidate
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(written, region)):
                return len(candidate)
        except phonenumbers.NumberParseException:
            return 0
        shorter = re.search(r"^.*\d(?=[ ().\-/]+\d+$)", candidate)
        if shorter is None:
            return 0
        candidate = shorter.group()
    return 0


def _recognised(kind: str, text: str) -> Iterator[tuple[int, int]]:
    for recogniser in _recognisers()[kind]:
        for result in recogniser.analyze(text, recogniser.supported_entities, None):
            if result.score >= _LEAST_SCORE:
                yield result.start, result.end


@cache
def _recognisers() -> dict[str, list[Any]]:
    """Presidio's recognisers by kind; the first call takes about 1.6 s and 60 MB."""
    logging.getLogger("presidio-analyzer").setLevel(logging.WARNING)  # it tells of every recogniser
    with _hidden("torch", "transformers"):
        from presidio_analyzer import predefined_recognizers as known

    import tldextract

    domains = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())

    class Email(known.EmailRecognizer):  # type: ignore[misc, name-defined]
        """Presidio's own asks the network for the list of domains at its first address."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).top_domain_under_public_suffix)

    return {
        "email": [Email()],
        "credit_card": [known.CreditCardRecognizer()],
        "iban": [known.IbanRecognizer()],
        "ip": [known.IpRecognizer()],
        "mac": [known.MacAddressRecognizer()],
        "ssn": [known.UsSsnRecognizer()],
        "crypto": [known.CryptoRecognizer()],
    }


@contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Import something as if these were not installed.

    Presidio imports them for recognisers that are not used here: 8 s and 300 MB. What is imported already stays.
    """
    absent = [name for name in modules if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # "not installed", to the import system
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def without_overlaps(found: list[Found]) -> list[Found]:
    """In the order of the text; of two that overlap the longer one."""
    kept: list[Found] = []
    for piece in sorted(found, key=lambda piece: (piece.start - piece.end, piece.start)):
        if all(piece.end <= other.start or piece.start >= other.end for other in kept):
            kept.append(piece)
    return sorted(kept, key=lambda piece: piece.start)
