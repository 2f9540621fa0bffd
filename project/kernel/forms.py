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


class EndpointForm(forms.Form):
    """`token` is never filled in: what is stored is not shown, not even to its owner."""

    name = forms.CharField(max_length=100, help_text="What people choose it by.")
    url = forms.CharField(
        max_length=500,
        label="Address",
        help_text="Of an OpenAI-compatible server. It usually ends in /v1.",
        widget=forms.TextInput(attrs={"placeholder": "https://api.example.com/v1", "inputmode": "url"}),
    )
    model = forms.CharField(max_length=200, help_text="What the server calls the model.")
    token = forms.CharField(
        required=False,
        help_text="Stored encrypted, sent to this server only, and never shown again.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "spellcheck": "false"}),
    )
    remove_token = forms.BooleanField(required=False, label="Remove the token", help_text="Calls go without one.")

    def __init__(self, *args: Any, has_token: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if has_token:
            self.fields["token"].help_text = "Empty: the stored one stays. Another one replaces it. It is never shown."
        else:
            del self.fields["remove_token"]
