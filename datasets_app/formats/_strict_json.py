"""JSON as RFC 8259 has it: NaN, Infinity, double keys and bottomless nesting are errors, not surprises."""

import json
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


def loads(text: str) -> Any:
    """The value of a JSON text. Raises NotJson."""
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
