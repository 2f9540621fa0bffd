r"""Change the texts of rows: letters, blanks, Unicode forms, replacements, templates."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from datasets_app.editing import LONGEST, Change, Part, RowValues, change_texts, too_long, values_of
from datasets_app.expressions import NAMES, REGEX_SECONDS, BadExpression, BadValue, compiled_pattern, too_slow
from datasets_app.importing import Entry
from datasets_app.preparing import StepContext, StepParams, each

name = "transform"
label = "Change texts"

Operation = Literal["lowercase", "uppercase", "strip", "collapse_blanks", "normalize", "replace", "template"]
OPERATIONS = get_args(Operation)
Form = Literal["NFC", "NFKC", "NFD", "NFKD"]

# Control characters but tab and line ends; characters that are not seen. The joiners U+200C and U+200D stay: they are
# part of Persian, Hindi and emoji.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_MOST_EXPANDED = 4 * LONGEST  # characters that one match may become, at the most
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\n{3,}")
_PLACE = re.compile(r"\{(?P<name>[^{}]*)\}|\{\{|\}\}")


class Params(StepParams):
    example = {"operation": "lowercase"}

    operation: Operation = Field(
        description="strip takes blanks away around texts, collapse_blanks also inside; normalize gives characters one "
        "Unicode form and removes invisible ones; template writes the text anew."
    )
    part: Part = Field(default="all", description="Which texts: all, prompt, answer or system.")
    form: Form = Field(
        default="NFC",
        description="For normalize: NFC keeps the look, NFKC also makes ligatures and full-width letters plain.",
    )
    find: str = Field(default="", max_length=500, description="For replace: what to look for.")
    replacement: str = Field(default="", max_length=10_000, description="For replace: what to put there; may be empty.")
    regex: bool = Field(default=False, description="For replace: find is a regular expression; \\1 is its first group.")
    template: str = Field(
        default="",
        max_length=20_000,
        description="For template: the new text. {prompt}, {answer}, {text}, {system} and {meta.column} are filled in; "
        "{{ is a brace.",
        json_schema_extra={"multiline": True},
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "Params":
        if self.operation == "replace":
            if not self.find:
                raise ValueError("replace needs 'find': what to look for.")
            if self.regex:
                _check_replacement(self.find, self.replacement)
        if self.operation == "template":
            if not self.template:
                raise ValueError("template needs 'template': the new text.")
            if self.part == "all":
                raise ValueError("template writes one text: choose the part prompt, answer or system.")
            _pieces(self.template)
        return self


def run(params: Params, rows: Iterator[Entry], ctx: StepContext) -> Iterator[Entry]:
    if params.operation == "template":
        pieces = _pieces(params.template)
        return each(rows, ctx, lambda entry: _filled_in(entry, pieces, params.part), field="template")
    change = _change(params)
    field = "find" if params.operation == "replace" else "operation"
    return each(rows, ctx, lambda entry: change_texts(entry, change, params.part), field=field)


def _change(params: Params) -> Change:
    changes: dict[str, Callable[[str], str]] = {
        "lowercase": str.lower,
        "uppercase": str.upper,
        "strip": str.strip,
        "collapse_blanks": lambda text: _LINES.sub("\n\n", _BLANKS.sub(" ", text)).strip(),
        "normalize": lambda text: unicodedata.normalize(params.form, _UNSEEN.sub("", text)),
        "replace": lambda text: _replaced(text, params.find, params.replacement),
    }
    if params.operation == "replace" and params.regex:
        return _replacing(params.find, params.replacement)
    return changes[params.operation]


def _replaced(text: str, find: str, replacement: str) -> str:
    """Raises BadRow before a text is made that is too long."""
    growth = len(replacement) - len(find)
    if growth > 0 and len(text) + text.count(find) * growth > max(LONGEST, len(text)):
        raise too_long()
    return text.replace(find, replacement)


def _replacing(find: str, replacement: str) -> Change:
    pattern = compiled_pattern(find)

    def change(text: str) -> str:
        left = max(LONGEST, len(text))

        def put(match: Any) -> str:
            """What stands for a match. Each group that the replacement names can be as long as the text."""
            nonlocal left
            longest = max(len(group or "") for group in (match.group(), *match.groups()))
            if replacement.count("\\") * longest > _MOST_EXPANDED:
                raise too_long()
            new = str(match.expand(replacement))
            left -= len(new)
            if left < 0:
                raise too_long()
            return new

        try:
            return str(pattern.sub(put, text, timeout=REGEX_SECONDS))
        except TimeoutError:
            raise BadValue(too_slow(find)) from None

    return change


def _check_replacement(find: str, replacement: str) -> None:
    import regex

    pattern = compiled_pattern(find)
    try:
        # Any match shows whether the groups that the replacement names exist.
        regex.compile(f"(?:{find})|").sub(replacement, "")
    except (regex.error, IndexError) as error:
        raise BadExpression(
            f"The replacement {replacement[:60]!r} does not fit {pattern.pattern[:60]!r}: {error}."
        ) from None


def _pieces(template: str) -> list[tuple[str, str]]:
    """(fixed text, name to fill in after it) of a template. Raises BadExpression for an unknown name."""
    found: list[tuple[str, str]] = []
    fixed, at = "", 0
    for match in _PLACE.finditer(template):
        fixed += template[at : match.start()]
        at = match.end()
        wanted = match["name"]
        if wanted is None or match.group() in ("{{", "}}"):
            fixed += match.group()[0]
            continue
        base = wanted.partition(".")[0]
        if (wanted not in NAMES and base != "meta") or wanted == "meta":
            known = ", ".join(f"{{{known}}}" for known in ("prompt", "answer", "text", "system", "meta.column"))
            raise BadExpression(f"'{{{wanted}}}' can't be filled in. Known: {known}; for a brace write {{{{.")
        found.append((fixed, wanted))
        fixed = ""
    return [*found, (fixed + template[at:], "")]


def _filled_in(entry: Entry, pieces: list[tuple[str, str]], part: Part) -> Entry:
    values = values_of(entry)
    most = max(LONGEST, len(entry.data))
    written: list[str] = []
    for fixed, wanted in pieces:
        written.append(fixed + (_written(values, wanted) if wanted else ""))
        most -= len(written[-1])
        if most < 0:
            raise too_long()
    text = "".join(written)
    return change_texts(entry, lambda _: text, part)


def _written(values: RowValues, name: str) -> str:
    value: Any = values["meta"].get(name[5:]) if name.startswith("meta.") else values[name]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise BadValue(f"{{{name}}} is a list or an object; only texts and numbers can be filled in.")
