"""What is wrong with a document, in words, at the dotted path of the field: `hyperparameters.learning_rate`."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from project.kernel.api.base import unknown_field

Complaints = dict[str, list[str]]

_WORDS = {
    "missing": "is required",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "finite_number": "must be a finite number",
    "none_required": "must be null: other values are not supported",
    "model_type": "must be a section with fields",
    "model_attributes_type": "must be a section with fields",
    "dict_type": "must be a section with fields",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_pattern_mismatch": "holds characters that are not allowed here",
    "union_tag_not_found": "is required",
}
_NUMBER = ("float_parsing", "float_type")
_WHOLE = ("int_parsing", "int_type", "int_from_float", "int_parsing_size")


def complaints(error: ValidationError, data: Any, known: Mapping[str, Sequence[str]]) -> Complaints:
    """pydantic's findings in `data`. `known` gives the fields of each section, for suggestions ('' = the top)."""
    found: Complaints = {}
    for detail in error.errors(include_url=False):
        path, unknown = _path(detail, data), detail["type"] == "extra_forbidden"
        section, _, name = path.rpartition(".")
        message = unknown_field(name, list(known.get(section, ()))) if unknown else in_words(detail)
        if message not in found.setdefault(path, []):
            found[path].append(message)
    # A field that may be two things complains twice: 'epoch', or a number of steps.
    return {path: [" or ".join(messages)] for path, messages in found.items()}


def _path(detail: ErrorDetails, data: Any) -> str:
    """The path without what pydantic adds for unions: names of the variants."""
    names: list[str] = []
    for part in detail["loc"]:
        inside = isinstance(data, Mapping) and part in data
        if inside or (isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)):
            data = data[part]
        elif not (isinstance(data, Mapping) and detail["type"] == "missing" and part == detail["loc"][-1]):
            continue
        names.append(str(part))
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        names.append(detail["ctx"]["discriminator"].strip("'"))
    return ".".join(names)


def in_words(detail: ErrorDetails) -> str:
    """One finding as what follows the name of a field: 'must be greater than 0'."""
    kind, limits = detail["type"], detail.get("ctx", {})
    if kind in _WORDS:
        return _WORDS[kind]
    if kind in _NUMBER:
        return "must be a number"
    if kind in _WHOLE:
        return "must be a whole number"
    match kind:
        case "greater_than":
            return f"must be greater than {_plain(limits['gt'])}"
        case "greater_than_equal":
            return f"must be {_plain(limits['ge'])} or more"
        case "less_than":
            return f"must be less than {_plain(limits['lt'])}"
        case "less_than_equal":
            return f"must be {_plain(limits['le'])} or less"
        case "string_too_long":
            return f"must be at most {limits['max_length']} characters"
        case "too_short":
            return f"must have at least {limits['min_length']} entries"
        case "too_long":
            return f"must have at most {limits['max_length']} entries"
        case "literal_error":
            return one_of(detail["input"], limits["expected"])
        case "union_tag_invalid":
            return one_of(limits["tag"], limits["expected_tags"])
    message = detail["msg"]
    return message[0].lower() + message[1:]


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def one_of(value: Any, expected: str) -> str:
    """`expected` is pydantic's list: "'adamw', 'sgd' or 'lion'"."""
    names = [name.strip(" '") for name in expected.replace(" or ", ",").split(",")]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    known = ", ".join(f"'{name}'" for name in names)
    if len(names) == 1:
        return f"must be {known}"
    return f"must be one of {known}." + (f" Did you mean '{near[0]}'?" if near else "")
