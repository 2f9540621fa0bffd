"""The forms of votes, tests and the playground. They shape; the actions check."""

import json
import re
from string import ascii_lowercase
from typing import Any

from django import forms

from abtests.actions.abtests import MAX_WEIGHT, METRICS, Share
from abtests.actions.feedback import MAX_COMMENT, MAX_TEXT, Opinion
from abtests.models import Thumb
from project.kernel import access
from project.kernel.access import Actor
from project.kernel.errors import Problem
from registry.models import Deployment, ModelVersion, Stage

OFFERED = 500  # versions in a select; older ones can be used through the API
_ANSWER_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
ROWS = 4  # variants in the form; the API takes more


class VoteForm(forms.Form):
    """What somebody thinks of one answer. A field that was not sent stays as it was."""

    rating = forms.TypedChoiceField(
        choices=[(str(stars), str(stars)) for stars in range(1, 6)],
        coerce=int,
        empty_value=None,
        required=False,
        error_messages={"invalid_choice": "Use a whole number from 1 (bad) to 5 (good)."},
    )
    thumb = forms.ChoiceField(choices=[("", "–"), *Thumb.choices], required=False)
    corrected_text = forms.CharField(
        required=False,
        max_length=MAX_TEXT,
        strip=False,
        label="What it should have said",
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Corrections can teach the next version.",
    )
    comment = forms.CharField(
        required=False, max_length=MAX_COMMENT, widget=forms.Textarea(attrs={"rows": 2}), label="Comment"
    )
    feedback_type = forms.CharField(
        required=False,
        max_length=40,
        label="About",
        help_text="For example accuracy, tone, too long.",
        widget=forms.TextInput(attrs={"list": "feedback-types"}),
    )

    def opinion(self) -> Opinion:
        """Only what was sent."""
        names = ("rating", "thumb", "corrected_text", "comment", "feedback_type")
        said = {name: self.cleaned_data[name] for name in names if name in self.data}
        if isinstance(said.get("corrected_text"), str):
            said["corrected_text"] = said["corrected_text"].replace("\r\n", "\n")  # browsers send CRLF
        return said  # type: ignore[return-value]


def _version_choices(by: Actor) -> list[tuple[str, list[tuple[str, str]]]]:
    """Versions that can be tested, by model, newest first."""
    rows = access.visible(ModelVersion.objects.exclude(stage=Stage.ARCHIVED), by)
    groups: dict[str, list[tuple[str, str]]] = {}
    for version in rows.select_related("model").order_by("model__name", "-number")[:OFFERED]:
        groups.setdefault(version.model.name, []).append((str(version.pk), f"{version} · {version.stage}"))
    return list(groups.items())


class ABTestForm(forms.Form):
    """A name, two to four versions with their shares, and what matters."""

    name = forms.CharField(max_length=100, help_text="What it is about, for example 'Shorter answers'.")
    description = forms.CharField(
        required=False,
        max_length=10_000,
        label="What do you want to learn?",
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    metrics = forms.MultipleChoiceField(
        choices=list(METRICS.items()),
        initial=["rating"],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="What matters",
    )

    def __init__(self, *args: Any, by: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = _version_choices(by)
        for place in range(ROWS):
            key = ascii_lowercase[place]
            self.fields[f"version_{key}"] = forms.ChoiceField(
                choices=[("", "Choose a version"), *choices],
                required=place < 2,
                label=f"Variant {key.upper()}" + (" (the one you have)" if place == 0 else ""),
            )
            self.fields[f"weight_{key}"] = forms.IntegerField(
                min_value=1, max_value=MAX_WEIGHT, required=False, initial=50, label="Share"
            )
        self.offers_nothing = not choices

    @property
    def variant_rows(self) -> list[tuple[forms.BoundField, forms.BoundField]]:
        return [(self[f"version_{key}"], self[f"weight_{key}"]) for key in ascii_lowercase[:ROWS]]

    @property
    def needs_more(self) -> bool:
        """Are there more than two variants, or errors in them?"""
        return any(
            self[f"{name}_{key}"].errors or self[f"version_{key}"].value()
            for name in ("version", "weight")
            for key in "cd"
        )

    def _keys(self) -> list[str]:
        return [key for key in ascii_lowercase[:ROWS] if self.cleaned_data.get(f"version_{key}")]

    def shares(self) -> list[Share]:
        data = self.cleaned_data
        return [Share(data[f"version_{key}"], data[f"weight_{key}"] or 50) for key in self._keys()]

    def add_problem(self, problem: Problem) -> None:
        """Show what the action found at the fields it is about: 'variants.1.version' is the second row."""
        keys = self._keys()
        for field, messages in problem.errors.items():
            head, _, rest = field.partition(".")
            place, _, name = rest.partition(".")
            shown: str | None = head if head in self.fields else None
            if head == "variants" and place.isdecimal() and int(place) < len(keys):
                shown = f"{name}_{keys[int(place)]}"
            elif head == "variants":
                shown = "version_b"
            for message in messages:
                self.add_error(shown, message)
        if not problem.errors:
            self.add_error(None, problem.detail)


class PlaygroundForm(forms.Form):
    """Who is asked, and how."""

    model = forms.ChoiceField(label="Version", error_messages={"invalid_choice": "This version is not served now."})
    system = forms.CharField(
        required=False,
        max_length=20_000,
        label="Instructions",
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "You answer briefly."}),
        help_text="Sent as the system message.",
    )
    temperature = forms.FloatField(
        min_value=0, max_value=2, initial=0.7, widget=forms.NumberInput(attrs={"step": "0.1"}), help_text="0 is strict."
    )
    max_tokens = forms.IntegerField(min_value=1, max_value=8192, initial=256, label="Longest answer (tokens)")
    prompt = forms.CharField(required=False, max_length=100_000, strip=False)
    messages = forms.CharField(required=False)
    history = forms.CharField(required=False)

    def __init__(self, *args: Any, deployments: list[Deployment], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offered = [(str(row.version_id), f"{row.version} · {row.version.stage}") for row in deployments]
        self.fields["model"].choices = offered  # type: ignore[attr-defined]
        for field in ("model", "system", "temperature", "max_tokens"):
            self.fields[field].widget.attrs["form"] = "ask"

    def _turns(self, name: str) -> list[dict[str, Any]]:
        try:
            turns = json.loads(self.cleaned_data.get(name) or "[]")
        except (ValueError, RecursionError):
            turns = None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise forms.ValidationError("What was said before is not a list of turns. Start a new conversation.")
        for turn in turns:
            if not _ANSWER_ID.fullmatch(str(turn.get("id", ""))):
                turn.pop("id", None)
        return turns

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        data["turns"] = self._turns("history")
        data["whole"] = self._turns("messages")
        return data

    def conversation(self) -> list[dict[str, Any]]:
        """With JavaScript the page sends all turns; without, what was said before and the new one."""
        data = self.cleaned_data
        if data["whole"]:
            return data["whole"]  # type: ignore[no-any-return]
        system = [{"role": "system", "content": data["system"]}] if data["system"].strip() else []
        said = [{"role": turn.get("role"), "content": turn.get("content")} for turn in data["turns"]]
        return [*system, *said, {"role": "user", "content": data["prompt"].replace("\r\n", "\n")}]
