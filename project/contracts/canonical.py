"""The JSON Canonicalization Scheme (RFC 8785): one text for one value, so that equal rows have equal hashes."""

import json
import math
from json.encoder import encode_basestring as quoted  # the escapes of RFC 8785, which are those of ECMAScript
from typing import Any

_LARGEST = 2**53  # beyond it, doubles (which is what RFC 8785 knows) skip integers
_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """The canonical UTF-8 of a JSON value: no blanks, keys in the order of their UTF-16 code units, shortest numbers.

    Raises ValueError for NaN, infinity and integers that no double holds, UnicodeEncodeError for half a character.
    """
    return (_PLAIN.encode(value) if _is_plain(value) else "".join(_pieces(value))).encode()


def number_text(value: float | int) -> str:
    """A number as ECMAScript writes it (ECMA-262, Number::toString). Raises ValueError as `canonical_json` does."""
    if isinstance(value, int) and (abs(value) <= _LARGEST or int(float(value)) == value):
        value = float(value)
    if isinstance(value, int):
        raise ValueError(f"{value} is not exactly a double")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    # repr has the shortest digits that read back as the same double, as ECMAScript wants them.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction if fraction != "0" else ""
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))  # digits before the point
    digits = digits.rstrip("0")
    return sign + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """`digits` with `point` of them before the decimal point, in the form ECMAScript chooses."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def _is_plain(value: Any) -> bool:
    """Does Python's own encoder write it as RFC 8785 wants it? True of everything but floats and unusual keys."""
    if isinstance(value, str | bool) or value is None:
        return True
    if isinstance(value, dict):
        return all(key.isascii() for key in value) and all(_is_plain(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(inner) for inner in value)
    return isinstance(value, int) and abs(value) <= _LARGEST


def _pieces(value: Any) -> Any:
    """The texts that make up a value. Objects are nested as deep as a row may be, so recursion is bounded."""
    if isinstance(value, str):
        yield quoted(value)
    elif isinstance(value, bool) or value is None:
        yield {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, int | float):
        yield number_text(value)
    elif isinstance(value, dict):
        for number, key in enumerate(sorted(value, key=_code_units)):
            yield f"{',' if number else '{'}{quoted(key)}:"
            yield from _pieces(value[key])
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield "," if number else "["
            yield from _pieces(inner)
        yield "]" if value else "[]"
    else:
        raise TypeError(f"{type(value).__name__} is not JSON")


def _code_units(key: str) -> bytes:
    """What keys are sorted by: their UTF-16 code units (section 3.2.3)."""
    return key.encode("utf-16-be")
