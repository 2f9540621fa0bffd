"""The forms of people, workspaces and tokens."""

from typing import Any

from django import forms

from project.kernel.access import Actor
from project.kernel.models import Role
from project.kernel.models.people import SCOPES


class WorkspaceForm(forms.Form):
    name = forms.CharField(max_length=100, label="Name", help_text="The team or project it is for.")


class MemberForm(forms.Form):
    who = forms.CharField(max_length=150, label="Person", help_text="User name, or the e-mail address of somebody new.")
    role = forms.ChoiceField(choices=Role.choices, initial=Role.EDITOR)


class TokenForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="What will use it, for example 'CI' or 'support bot'.")
    role = forms.ChoiceField(choices=[], help_text="What it may do at most.")
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None ticked: everything the role may do.",
    )
    expires_in_days = forms.IntegerField(
        required=False, min_value=1, max_value=3650, label="Expires after (days)", help_text="Empty: never."
    )

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offered = [(role.value, role.label) for role in Role if actor.role.covers(role)]
        self.fields["role"] = forms.ChoiceField(
            choices=offered, initial=actor.role.value, help_text="What it may do at most."
        )
