"""JSON as RFC 8259 has it: NaN, Infinity, double keys and bottomless nesting are errors, not surprises."""

import json
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 64


class NotJson(ValueError):
    """Why a text is not acceptable JSON, as the end of a sentence."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotJson(f"the key '{double[:60]}' appears twice in one object; keep one of them.")
    return found


def _constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON; write null, or leave the value out.")


STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
LENIENT = json.JSONDecoder()


_QUICK: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(parse_constant=_constant).scan_once  # type: ignore[attr-defined]
_BLANK_BEFORE_COLON = re.compile(r'"\s+:')


def loads(text: str) -> Any:
    """The value of a JSON text. Raises NotJson."""
    found = quickly(text, 0)
    if found is not None and not text[found[1] :].strip(" \t\r\n"):
        return found[0]
    try:
        value = STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(syntax(error)) from None
    except RecursionError:
        raise NotJson(too_deep()) from None
    except NotJson:
        raise
    except ValueError as error:  # a number of more than 4,300 digits
        raise NotJson(f"{error}.") from None
    check_depth(value, text)
    return value


def quickly(text: str, at: int) -> tuple[Any, int] | None:
    """(value, end) as `STRICT` would say of most rows, in half the time; None where it takes a closer look.

    The decoder keeps the last of two equal keys without a word. Each key of the text is followed by `":`, and each key
    that is kept is counted: where there are as many of the one as of the other, no key was lost.
    """
    try:
        value, end = _QUICK(text, at)
    except (StopIteration, ValueError, RecursionError):
        return None
    if text.count("[", at, end) + text.count("{", at, end) > MAX_DEPTH or _BLANK_BEFORE_COLON.search(text, at, end):
        return None
    return (value, end) if text.count('":', at, end) == _keys(value) else None


def _keys(value: Any) -> int:
    """How many keys all objects within a value have."""
    if type(value) is dict:
        inside = value.values()
        count = len(value)
    elif type(value) is list:
        inside, count = value, 0  # type: ignore[assignment]
    else:
        return 0
    for inner in inside:
        if type(inner) is dict or type(inner) is list:
            count += _keys(inner)
    return count


def syntax(error: json.JSONDecodeError) -> str:
    """'not valid JSON at column 12: expecting ',' delimiter.'"""
    return f"not valid JSON at column {error.colno:,}: {complaint(error)}."


def complaint(error: json.JSONDecodeError) -> str:
    """What the parser says, to go on with after a colon."""
    words = error.msg.removesuffix(" starting at").removesuffix(" at")
    return words[:1].lower() + words[1:]


def too_deep() -> str:
    return f"it is nested more than {MAX_DEPTH} levels deep."


def check_depth(value: Any, text: str) -> None:
    """Raise NotJson if `value`, read from `text`, is nested too deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # cheap, and true of almost every line
        return
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return
    raise NotJson(too_deep())


def kind_of(value: Any) -> str:
    """What a JSON value is, in words: 'a list', 'a number', ..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
