"""The form of data that a model writes, one for each kind of it."""

import re
from typing import Any

from django import forms

from project.kernel.errors import Invalid

Choices = list[tuple[str, str]]

KINDS = {
    "templates": "From templates",
    "documents": "About documents",
    "seeds": "After examples",
    "augment": "In other words",
}
_CONFIG = ("num_samples", "temperature", "max_tokens", "quality_filter")


class WritingForm(forms.Form):
    """What all kinds have: who writes, and how. `body()` is what the API would be sent."""

    writer = forms.CharField(widget=forms.Select, label="Writer", help_text="An endpoint, or a model of this registry.")
    to = forms.CharField(
        max_length=100, required=False, label="Data set", help_text="It gets the version, and is made where it is new."
    )
    num_samples = forms.CharField(widget=forms.NumberInput, required=False, initial="100", label="Rows")
    temperature = forms.CharField(
        required=False, initial="0.8", help_text="0 always writes the likeliest; more is more varied."
    )
    max_tokens = forms.CharField(
        widget=forms.NumberInput,
        required=False,
        initial="512",
        label="Longest answer (tokens)",
        help_text="A longer one is refused.",
    )
    quality_filter = forms.BooleanField(
        required=False,
        initial=True,
        label="Quality filter",
        help_text="Leave out what is not good enough, and say why.",
    )

    def __init__(self, *args: Any, writers: Choices, data_sets: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["writer"].widget = forms.Select(choices=[("", "Choose who writes"), *writers])
        for name in ("documents", "seeds", "rows"):
            if name in self.fields:
                self.fields[name].widget = forms.Select(choices=[("", "Choose a data set"), *data_sets])

    def body(self) -> dict[str, Any]:
        data = self.cleaned_data
        who, _, key = data["writer"].partition(":")
        config = {name: data[name] for name in _CONFIG if name in self.fields and data[name] not in ("", None)}
        named = {name: data[name] for name in ("to", "system", "instructions", "output_format") if data.get(name)}
        return {**named, who if who in ("endpoint", "model") else "model": key, "generation_config": config}


class _Rows(WritingForm):
    output_format = forms.ChoiceField(
        choices=[("chat", "Chat"), ("completion", "Prompt and completion")], label="Kind of rows"
    )


class TemplatesForm(_Rows):
    template_prompts = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 6, "placeholder": "Explain {topic} to {reader}."}),
        label="Prompts",
        help_text="With {placeholders}. The model writes the answers. A line of --- begins the next one.",
    )
    values = forms.CharField(
        widget=forms.Textarea(
            attrs={"rows": 4, "placeholder": "topic: photosynthesis | gravity\nreader: a child | a student"}
        ),
        required=False,
        label="Values",
        help_text="A line for each placeholder, its values separated by |.",
    )
    system = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 2}),
        required=False,
        label="System prompt",
        help_text="Said to the model first, and kept in the rows.",
    )

    def body(self) -> dict[str, Any]:
        prompts = re.split(r"(?m)^\s*---+\s*$", self.cleaned_data["template_prompts"].replace("\r\n", "\n"))
        kept = [prompt.strip() for prompt in prompts if prompt.strip()]
        return {**super().body(), "template_prompts": kept, "values": _values(self.cleaned_data["values"])}


class DocumentsForm(_Rows):
    documents = forms.CharField(
        widget=forms.Select, help_text="Questions are asked about its texts; what they do not say is refused."
    )
    instructions = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}), required=False, help_text="What else the questions should be like."
    )

    def body(self) -> dict[str, Any]:
        return {**super().body(), "documents": self.cleaned_data["documents"]}


class SeedsForm(_Rows):
    seeds = forms.CharField(
        widget=forms.Select, label="Examples", help_text="New rows are written after these; none resembles another."
    )
    instructions = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}), required=False, help_text="What else the rows should be like."
    )

    def body(self) -> dict[str, Any]:
        return {**super().body(), "seeds": self.cleaned_data["seeds"]}


class AugmentForm(WritingForm):
    num_samples = None  # type: ignore[assignment]  # as many as there are rows
    rows = forms.CharField(
        widget=forms.Select, label="Rows", help_text="They stay; each is followed by its copies. Never held-out rows."
    )
    method = forms.ChoiceField(
        choices=[("paraphrase", "Paraphrase"), ("back_translation", "Translate and back")], initial="paraphrase"
    )
    through = forms.CharField(max_length=60, required=False, initial="German", label="Through")
    part = forms.ChoiceField(
        choices=[("prompt", "Questions"), ("answer", "Answers"), ("system", "System prompts")], initial="prompt"
    )
    copies = forms.CharField(widget=forms.NumberInput, required=False, initial="1", label="Copies per row")
    share = forms.CharField(required=False, initial="1", label="Share of the rows", help_text="From 0 to 1.")

    def body(self) -> dict[str, Any]:
        data = self.cleaned_data
        more = {name: data[name] for name in ("method", "through", "part", "copies", "share") if data[name]}
        return {**super().body(), "dataset": data["rows"], **more}


FORMS: dict[str, type[WritingForm]] = {
    "templates": TemplatesForm,
    "documents": DocumentsForm,
    "seeds": SeedsForm,
    "augment": AugmentForm,
}


def _values(text: str) -> dict[str, list[str]]:
    """'topic: a | b' in lines. Raises Invalid at 'values'."""
    found: dict[str, list[str]] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, colon, words = line.partition(":")
        values = [word.strip() for word in words.split("|") if word.strip()]
        if not colon or not values:
            raise Invalid(errors={"values": [f"'{line[:60]}': write a line like topic: first | second."]})
        found.setdefault(name.strip().strip("{}"), []).extend(values)
    return found
