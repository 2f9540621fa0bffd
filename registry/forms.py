"""The forms of models and versions."""

from django import forms

from registry import sources


class ImportForm(forms.Form):
    source = forms.CharField(
        max_length=300,
        initial=sources.BASE_PACKAGE,
        help_text="An installed package (pip:PACKAGE), a folder on the server (dir:NAME) or a repository of the "
        "Hugging Face Hub (hub:org/name@revision).",
    )
    name = forms.CharField(
        max_length=100, required=False, help_text="What the team will call it. Empty: after the source."
    )
    base = forms.ChoiceField(
        required=False, label="Base model", help_text="Only for an adapter: the model it was trained on."
    )
    dtype = forms.ChoiceField(
        label="Number format",
        choices=[("auto", "As it is (GGUF: bfloat16)"), ("bfloat16", "bfloat16"), ("float32", "float32")],
        help_text="bfloat16 needs half the space of float32.",
    )

    def __init__(self, *args: object, bases: list[tuple[str, str]], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        field = self.fields["base"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101
        field.choices = [("", "None: it is a full model"), *bases]


class ModelForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="Applications ask for the model by this name.")
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 3}))
    tags = forms.CharField(required=False, max_length=1000, help_text="Words, separated by commas.")

    def clean_tags(self) -> list[str]:
        return [tag for tag in (part.strip() for part in self.cleaned_data["tags"].split(",")) if tag]


class NotesForm(forms.Form):
    notes = forms.CharField(
        required=False, label="What to know about it", widget=forms.Textarea(attrs={"rows": 4, "class": "input"})
    )
