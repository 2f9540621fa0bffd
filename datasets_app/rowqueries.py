"""What people may ask of rows in an address: `?search=refund&answer=card_arrival&most_turns=2&sort=-characters`."""

import difflib
from collections.abc import Mapping

from datasets_app.searching import SORTS, Query
from project.kernel.errors import Invalid, Problem, invalid

MAX_TEXT = 500  # characters
NUMBERS = ("least_characters", "most_characters", "least_learned", "most_learned", "least_turns", "most_turns")
_LARGEST = 2**53

# name, type, what it does: for the API's schema
PARAMETERS: list[tuple[str, type, str]] = [
    ("search", str, "rows with this text in one of their texts, in any case"),
    ("answer", str, "rows whose answer is exactly this (of a longer one its first 200 characters)"),
    ("answer_has", str, "rows whose answer (its first 200 characters) holds this, in any case"),
    *((name, int, f"{name.replace('_', ' ')} of a row") for name in NUMBERS),
    ("synthetic", bool, "rows that a model or a machine wrote, or only others"),
    ("sort", str, f"{', '.join(SORTS)}; with - in front the other way round"),
]


def read_query(given: Mapping[str, str], *, others: tuple[str, ...] = ("offset", "limit", "format")) -> Query:
    """The query in these parameters. Raises Invalid that names every wrong one."""
    known = {name for name, _, _ in PARAMETERS}
    wrong: dict[str, list[str]] = {}
    values: dict[str, object] = {}
    for name, text in given.items():
        if name in others or text == "":
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            wrong[name] = [f"Unknown parameter.{f' Did you mean {near[0]!r}?' if near else ''}"]
            continue
        try:
            values |= _value(name, text)
        except Problem as problem:
            wrong |= problem.errors
    if wrong:
        raise Invalid(errors=wrong)
    return Query.from_json(values)


def _value(name: str, text: str) -> dict[str, object]:
    if name in NUMBERS:
        if not (text.isdecimal() and text.isascii() and len(text) < 20 and int(text) <= _LARGEST):
            raise invalid(name, "Use a whole number of 0 or more.")
        return {name: int(text)}
    if name == "synthetic":
        if text.lower() not in ("true", "false"):
            raise invalid(name, "Use true or false.")
        return {name: text.lower() == "true"}
    if name == "sort":
        column = text.removeprefix("-")
        if column not in SORTS:
            raise invalid(name, f"'{column[:60]}' is not offered. Use one of: {', '.join(SORTS)}.")
        return {"sort": column, "descending": text.startswith("-")}
    if len(text) > MAX_TEXT:
        raise invalid(name, f"Use at most {MAX_TEXT} characters.")
    return {name: text.replace("\x00", "")}
