"""Pages of preflights: what a base model would learn from a data set, counted and token by token."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect

from datasets_app import suggesting
from datasets_app.suggestions import in_order
from project.kernel import access
from project.kernel.errors import Problem, invalid
from project.kernel.pages import WorkspacePage, add_problem
from training import lossmask, suggestions
from training.actions import preflights
from training.actions.preflights import DEFAULT_LENGTH
from training.models import Preflight
from training.models.preflights import FLAGS
from training.pages import sliced
from training.planning import find_data, find_version, found_at
from training.queries import Choices, data_to_offer, preflights_with_all, versions_to_offer


class PreflightForm(forms.Form):
    """Which rows, for which model, cut at which length."""

    dataset_version = forms.CharField(widget=forms.Select, label="Data set", required=False)
    base = forms.CharField(widget=forms.Select, label="Base model", required=False)
    max_seq_length = forms.CharField(
        widget=forms.NumberInput,
        label="Longest row (tokens)",
        required=False,
        help_text="Training cuts longer ones. Use the number you are going to train with.",
    )

    def __init__(self, *args: Any, versions: Choices, data_sets: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["dataset_version"].widget = forms.Select(choices=[("", "Choose a data set"), *data_sets])
        self.fields["base"].widget = forms.Select(choices=[("", "Choose a model"), *versions])

    @property
    def length(self) -> int:
        text = self.cleaned_data.get("max_seq_length", "?").strip() or str(DEFAULT_LENGTH)
        if not text.isdecimal() or len(text) > 9:
            raise invalid("max_seq_length", "must be a whole number")
        return int(text)


class NewPreflight(WorkspacePage):
    def get(self, request: HttpRequest) -> HttpResponse:
        access.require(self.actor, "preflight.create", self.actor.workspace)
        start: dict[str, Any] = {"max_seq_length": request.GET.get("max_seq_length", DEFAULT_LENGTH)}
        for name, field, find in (("data", "dataset_version", find_data), ("base", "base", find_version)):
            if reference := request.GET.get(name):
                try:
                    start[field] = str(find(reference, workspace=self.actor.workspace).pk)
                except Problem:  # an old link: the form is shown without it
                    continue
        return self.show(self.form(initial=start))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = self.form(_asked(request.POST))
        form.is_valid()
        try:
            made = self.launch(form)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            add_problem(form, problem)
            return self.show(form, status=400)
        return redirect(made)

    def launch(self, form: PreflightForm) -> Preflight:
        chosen, workspace = form.cleaned_data, self.actor.workspace
        for name in ("dataset_version", "base"):
            if not chosen.get(name):
                raise invalid(name, "Choose one of the list.")
        data = found_at("dataset_version", lambda: find_data(chosen["dataset_version"], workspace=workspace))
        base = found_at("base", lambda: find_version(chosen["base"], workspace=workspace))
        return preflights.launch(base, data, max_seq_length=form.length, by=self.actor)

    def form(self, *args: Any, **kwargs: Any) -> PreflightForm:
        by = self.actor
        return PreflightForm(*args, versions=versions_to_offer(by), data_sets=data_to_offer(by), **kwargs)

    def show(self, form: PreflightForm, status: int = 200) -> HttpResponse:
        return self.render("training/preflight_new.html", status=status, form=form, section="datasets")


def _asked(said: QueryDict) -> Mapping[str, Any]:
    """What was sent: by the form of this page, or by that of a fine-tune, which calls things by its own names."""
    if "of_fine_tune" not in said:
        return said
    names = {"dataset_version": "dataset", "base": "base_model", "max_seq_length": "max_seq_length"}
    return {field: said.get(name, "") for field, name in names.items()}


class PreflightPage(WorkspacePage):
    """The counts, what is wrong, and the rows with their loss mask."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        found = access.find(preflights_with_all(), self.actor, pk=pk)
        flag = request.GET.get("flag", "")
        flag = flag if flag in FLAGS else ""
        text = request.GET.get("row", "").strip()
        row = int(text) if text.isdecimal() and len(text) < 10 else None
        page = None
        if found.views is not None:
            page = sliced(
                request, lambda offset, limit: lossmask.some(found, flag=flag, row=row, offset=offset, limit=limit)
            )
        return self.render(
            "training/preflight.html",
            preflight=found,
            job=found.job,
            page=page,
            flag=flag,
            row=text,
            advice=self._advice(found) if found.views is not None else None,
            section="datasets",
        )

    def _advice(self, found: Preflight) -> dict[str, Any]:
        return suggesting.all_as_json(found.data_version, in_order(suggestions.of(found)))
