"""What the list of jobs can be narrowed to."""

from typing import Any

from django import forms

from project.jobs.models import JobState


class JobFilter(forms.Form):
    search = forms.CharField(required=False, max_length=200)
    state = forms.ChoiceField(required=False, choices=[("", "Any state"), *JobState.choices])
    recipe = forms.ChoiceField(required=False, choices=[("", "Any kind")])

    def __init__(self, *args: Any, recipes: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["recipe"] = forms.ChoiceField(required=False, choices=[("", "Any kind"), *recipes])
