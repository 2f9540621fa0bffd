"""The forms of data sets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from django import forms
from django.http import QueryDict

from datasets_app.encodings import KNOWN
from datasets_app.reading import FORMATS, excerpt
from datasets_app.shapes import PARTS

MAPPED_COLUMNS = 50  # columns that are offered for mapping; more is no form


def _formats() -> list[tuple[str, str]]:
    return [("auto", "Recognise it"), *((plugin.name, plugin.label) for plugin in FORMATS.all())]


def _encodings() -> list[tuple[str, str]]:
    return [("auto", "Recognise it"), *KNOWN.items()]


def _choice(part: str) -> str:
    """A part with what it is, short: "Prompt: what the model is given"."""
    return f"{part.capitalize()}: {re.split('[:;,]', PARTS[part])[0]}"


class UploadForm(forms.Form):
    """A file, or the place of one, and how to read it. `offer_columns` adds one choice per column of the file."""

    file = forms.FileField(
        required=False,
        allow_empty_file=True,
        help_text="JSON Lines, JSON, CSV, TSV, Parquet, Arrow or plain text; also packed with gzip or zstd.",
    )
    source = forms.CharField(
        required=False,
        max_length=1000,
        label="Or fetch it from",
        help_text="hub:org/name@revision, s3://bucket/key, or dir:NAME below the folder that an operator allows.",
        widget=forms.TextInput(attrs={"placeholder": "hub:PolyAI/banking77", "autocomplete": "off"}),
    )
    upload = forms.CharField(required=False, widget=forms.HiddenInput)
    skip_bad_lines = forms.BooleanField(
        required=False,
        label="Leave bad lines out",
        help_text="Without this, one bad line refuses the file, and you are told which.",
    )
    format = forms.ChoiceField(
        required=False,
        choices=_formats,
        help_text="The content decides, not the file's name.",
        widget=forms.Select(attrs={"data-look-again": ""}),
    )
    encoding = forms.ChoiceField(
        required=False,
        choices=_encodings,
        help_text="Say it where letters with accents come out wrong.",
        widget=forms.Select(attrs={"data-look-again": ""}),
    )
    split = forms.CharField(
        required=False, max_length=100, help_text="Of a folder or a repository that has several. Empty: train."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.columns: list[str] = []
        self.samples: dict[str, list[str]] = {}

    def reading(self) -> dict[str, Any]:
        """How to read the file, of what is filled in so far: for `datasets.create`, without the columns."""
        data = self.cleaned_data
        return {
            "skip_bad_lines": data.get("skip_bad_lines", False),
            "format": data.get("format") or "auto",
            "encoding": data.get("encoding") or "auto",
            "split": data.get("split") or "",
        }

    def offer_columns(
        self, columns: Sequence[str], rows: Sequence[dict[str, Any]], suggestion: Mapping[str, str]
    ) -> None:
        """Ask what each column is. `suggestion` (part -> column) is chosen beforehand, `rows` are shown."""
        parts = {column: part for part, column in suggestion.items()}
        self.columns = list(columns)[:MAPPED_COLUMNS]
        choices = [("", "Kept beside the row"), *((part, _choice(part)) for part in PARTS)]
        asked_before = "column_0" in self.data
        data = cast(QueryDict, self.data).copy()
        for number, column in enumerate(self.columns):
            if not asked_before:
                data[f"column_{number}"] = parts.get(column, "")
            self.fields[f"column_{number}"] = forms.ChoiceField(
                required=False,
                choices=choices,
                label=excerpt(column, 80),
                widget=forms.Select(attrs={"class": "input", "data-look-again": ""}),
            )
            self.samples[column] = [excerpt(str(row[column]), 80) for row in rows if column in row][:2]
        self.data = data

    def so_far(self) -> dict[str, str]:
        """part -> column, as chosen up to now, right or wrong."""
        chosen = ((self[f"column_{number}"].data, column) for number, column in enumerate(self.columns))
        return {part: column for part, column in chosen if part}

    def mapped(self) -> dict[str, str]:
        """part -> column, as chosen. Adds an error when two columns are said to be the same part."""
        columns: dict[str, str] = {}
        for number, column in enumerate(self.columns):
            part = self.cleaned_data.get(f"column_{number}")
            if part in columns:
                self.add_error(f"column_{number}", f"'{excerpt(columns[part], 60)}' is the {part} already.")
            elif part:
                columns[part] = column
        return columns

    def parts(self) -> dict[str, str]:
        """What the choices mean."""
        return PARTS

    def column_rows(self) -> list[tuple[forms.BoundField, list[str]]]:
        """(field, two sample values) for each column that is asked about."""
        return [(self[f"column_{number}"], self.samples[column]) for number, column in enumerate(self.columns)]


class NewDatasetForm(UploadForm):
    name = forms.CharField(
        max_length=100, help_text="Letters, digits, '.', '_' and '-'. Jobs ask for the data by this name."
    )
    description = forms.CharField(required=False, max_length=5000, widget=forms.Textarea(attrs={"rows": 2}))

    field_order = ("file", "upload", "source", "name", "description", "skip_bad_lines", "format", "encoding", "split")


class DatasetForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="Job files that use the old name no longer find it.")
    description = forms.CharField(required=False, max_length=5000, widget=forms.Textarea(attrs={"rows": 3}))
