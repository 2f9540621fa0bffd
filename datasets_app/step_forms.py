"""A form per preparation step, made from the schema of its parameters. What a field means is judged by `preparing`."""

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from django import forms
from django.http import QueryDict
from pydantic.fields import FieldInfo

from datasets_app.preparing import MOST_STEPS, STEPS, StepErrors, StepPlugin, parse
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import UserError

Raw = dict[str, Any]


_GROUPS = (
    ("Clean up", ("drop_duplicates", "near_duplicates", "redact", "transform", "truncate")),
    ("Choose rows", ("filter", "without", "sample", "balance", "shuffle")),
    ("Divide and combine", ("split", "mix")),
    ("Change what a row is", ("columns", "convert", "edits_to_pairs", "system_prompt", "correct")),
    ("Add copies", ("typos", "casing")),
)


def choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, [(name, label)]) of every step, for the list of what can be added; those of others come last."""
    labels = {step.name: step.label for step in STEPS.all()}
    grouped = [(title, [(name, labels.pop(name)) for name in names if name in labels]) for title, names in _GROUPS]
    rest = sorted(labels.items(), key=lambda choice: choice[1])
    return [group for group in (*grouped, ("Others", rest)) if group[1]]


class StepForm(forms.Form):
    """One step's parameters. `raw()` is the step as people write it; errors come from `add_errors`."""

    def __init__(self, plugin: StepPlugin, number: int, *, step: Raw | None = None, data: Any = None) -> None:
        shown = {name: as_text(value) for name, value in (step or {}).items() if name != "type"}
        super().__init__(data, prefix=f"s{number - 1}", initial=shown)
        self.plugin, self.number = plugin, number
        self.moved = ""  # the button that was just pressed, "up" or "down": who pressed it goes on from there
        for name, info in plugin.Params.model_fields.items():
            self.fields[name] = _field(info, name)

    def focus(self) -> None:
        """The keyboard goes to the first control, as the step was just added."""
        first = next(iter(self.fields.values()), None)
        if first is not None:
            first.widget.attrs["autofocus"] = ""

    @property
    def help(self) -> str:
        return (self.plugin.__doc__ or "").strip().split("\n\n")[0]

    @property
    def main(self) -> list[forms.BoundField]:
        """What most people need: the first fields, and those with something else than the default."""
        return [self[name] for name in self.fields if not self._is_rare(name)]

    @property
    def rare(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if self._is_rare(name)]

    def _is_rare(self, name: str) -> bool:
        position = list(self.fields).index(name)
        info = self.plugin.Params.model_fields[name]
        value = self[name].value()
        default = as_text(info.get_default(call_default_factory=True)) if not info.is_required() else ""
        return position >= 3 and value in (None, "", [], False, default) and not self[name].errors

    def raw(self) -> Raw:
        """The step with what differs from its defaults. Call it on a bound form."""
        step: Raw = {"type": self.plugin.name}
        for name, info in self.plugin.Params.model_fields.items():
            value = _value(info, self.fields[name], self[name].data)
            default = "" if info.is_required() else info.get_default(call_default_factory=True)
            if info.is_required() or (value is not None and as_text(value) != as_text(default)):
                step[name] = value
        return step


def _field(info: FieldInfo, name: str) -> forms.Field:
    label = name.replace("_", " ").capitalize()
    common: dict[str, Any] = {"required": False, "label": label, "help_text": info.description or ""}
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, Mapping) else {}
    options = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    if not info.is_required() and as_text(info.default) not in ("", None, []):
        common["initial"] = as_text(info.default)
    if options:
        return forms.ChoiceField(choices=[(option, str(option)) for option in options], **common)
    if "choices" in extra:
        ticks = [(str(choice), str(choice)) for choice in extra["choices"]]  # type: ignore[union-attr]
        return forms.MultipleChoiceField(choices=ticks, widget=forms.CheckboxSelectMultiple, **common)
    if info.annotation is bool:
        return forms.BooleanField(**common)
    if get_origin(info.annotation) is dict:
        rows = {"rows": 3, "placeholder": "name = value"}
        common["help_text"] += " One to a line, name = value."
        return forms.CharField(strip=False, widget=forms.Textarea(attrs=rows), **common)
    if get_origin(info.annotation) is list:
        common["help_text"] += " One to a line."
        return forms.CharField(strip=False, widget=forms.Textarea(attrs={"rows": 3}), **common)
    if extra.get("multiline"):
        return forms.CharField(strip=False, widget=forms.Textarea(attrs={"rows": 4}), **common)
    number = {"inputmode": "decimal"} if int in _kinds(info) or float in _kinds(info) else {}
    return forms.CharField(strip=False, widget=forms.TextInput(attrs={"autocomplete": "off", **number}), **common)


def _kinds(info: FieldInfo) -> tuple[Any, ...]:
    return get_args(info.annotation) or (info.annotation,)


def _value(info: FieldInfo, field: forms.Field, data: Any) -> Any:
    """What a control holds, as JSON has it; None for nothing. Numbers stay texts: pydantic reads them."""
    if isinstance(field, forms.BooleanField):
        return bool(data)
    if isinstance(field, forms.MultipleChoiceField):
        return list(data or [])
    text = str(data or "").replace("\r\n", "\n")
    if get_origin(info.annotation) is dict:
        return _pairs(text)
    if get_origin(info.annotation) is list:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        return lines if get_args(info.annotation) == (str,) else [_json(line) for line in lines]
    if int in _kinds(info) or float in _kinds(info):
        return text.strip() or None
    return text


def _json(line: str) -> Any:
    """What a line says; a line that is no JSON stays a text, and the step refuses it."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _pairs(text: str) -> dict[str, str]:
    """'a = b' to a line. The last sign counts, because names may hold one."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.split("\n"))):
        name, _, value = line.rpartition("=") if "=" in line else (line, "", "")
        found[name.strip()] = value.strip()
    return found


def as_text(value: Any) -> Any:
    """A parameter as its control shows it."""
    match value:
        case dict():
            return "\n".join(f"{name} = {as_text(inner)}" for name, inner in value.items())
        case list() if value and all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
            return "\n".join(f"{name} = {as_text(inner)}" for name, inner in value)
        case list() if all(isinstance(item, str) for item in value):
            return value if not value else "\n".join(value)
        case list():
            return "\n".join(json.dumps(item, ensure_ascii=False) for item in value)
        case None:
            return ""
        case bool():
            return value
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case _:
            return value


class StepForms(list[StepForm]):
    """The forms of a list of steps, in order."""

    @classmethod
    def of(cls, steps: Any) -> "StepForms":
        """Forms that show steps as people wrote them, short forms included. Raises UserError for what is no list."""
        given = steps["steps"] if isinstance(steps, dict) and set(steps) == {"steps"} else steps
        if given == []:
            return cls()
        try:
            return cls(_shown(step.as_json(), number) for number, step in enumerate(parse(steps), 1))
        except StepErrors as errors:
            forms_ = cls()
            for number, step in enumerate(given, 1):
                try:
                    forms_.append(_shown(step, number))
                except (UnknownPlugin, KeyError, TypeError, AttributeError):
                    raise errors from None  # nothing that has a form
            return forms_

    @classmethod
    def posted(cls, data: QueryDict) -> "StepForms":
        """The forms that a page sent: `types` has the steps' types in order. Unknown ones are left out."""
        found = cls()
        for number, name in enumerate(data.getlist("types")[:MOST_STEPS], 1):
            try:
                found.append(StepForm(STEPS.get(name), number, data=data))
            except UnknownPlugin:
                continue
        return found

    def raw(self) -> list[Raw]:
        return [form.raw() for form in self]

    def add_errors(self, error: UserError | Mapping[str, list[str]]) -> list[str]:
        """Show errors of steps at their fields; returns those that have no field here."""
        by_field: Mapping[str, list[str]]
        if isinstance(error, StepErrors):
            by_field = error.by_field()
        elif isinstance(error, UserError):
            by_field = {error.field: [f"{error} {error.hint}".strip()]}
        else:
            by_field = error
        left: list[str] = []
        for field, messages in by_field.items():
            form, name = self._at(field)
            for message in messages:
                if form is None:
                    left.append(message)
                else:
                    form.add_error(name, message)
        return left

    def _at(self, field: str) -> tuple[StepForm | None, str | None]:
        """steps.2.condition -> (the third form, 'condition')."""
        pieces = field.split(".")
        if len(pieces) < 2 or pieces[0] != "steps" or not pieces[1].isdigit() or int(pieces[1]) >= len(self):
            return None, None
        form = self[int(pieces[1])]
        form.is_valid()
        name = pieces[2] if len(pieces) > 2 and pieces[2] in form.fields else None
        return form, name


def _shown(step: Raw, number: int) -> StepForm:
    """A bound form, so that errors can be shown at its fields."""
    plugin = STEPS.get(step["type"])
    form = StepForm(plugin, number, step=step)
    data = QueryDict(mutable=True)
    for name, field in form.fields.items():
        value = form.initial.get(name, field.initial)
        if isinstance(field, forms.MultipleChoiceField):
            ticked = value.split("\n") if isinstance(value, str) else value or []
            data.setlist(form.add_prefix(name), list(ticked))
        elif value not in (None, False, [], ""):
            data[form.add_prefix(name)] = "on" if value is True else str(value)
    return StepForm(plugin, number, data=data)
