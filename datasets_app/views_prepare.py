"""The page that makes a new version by steps: one form per step, and what they do to ten rows."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from datasets_app import expressions, preview
from datasets_app.actions import datasets, preparations
from datasets_app.models import DatasetVersion
from datasets_app.preparing import MOST_STEPS, STEPS
from datasets_app.preview import ShownRow
from datasets_app.previewing import ROWS, Answer, Shown
from datasets_app.step_forms import StepForms, choices
from datasets_app.storage import StoredRow
from datasets_app.views_rows import proposals
from project.contracts.runs import UserError
from project.kernel import access
from project.kernel.errors import Invalid, Problem
from project.kernel.pages import WorkspacePage, add_problem

_LONGEST_TEXT = 200_000  # characters of pasted steps
_DIGITS = 15  # more are no number of a row or a seed


class TargetForm(forms.Form):
    """Where the rows go, and where chance starts from."""

    to = forms.CharField(
        max_length=100, required=False, label="Data set", help_text="It gets the result as its next version."
    )
    seed = forms.IntegerField(min_value=0, required=False, initial=0, help_text="Same seed, same rows.")
    start = forms.IntegerField(min_value=0, required=False, initial=0, widget=forms.HiddenInput)


@dataclass(frozen=True)
class PreviewRow:
    """One row of the preview as the page shows it."""

    fate: Shown
    before: ShownRow | None
    after: list[ShownRow]

    @property
    def number(self) -> int:
        return self.fate.number

    @property
    def words(self) -> str:
        return f"Dropped by step {self.fate.step}" if self.fate.step else "Dropped"

    @property
    def meta_changed(self) -> bool:
        """Are there other columns to show: on one side others than on the other?"""
        return any(meta != self.fate.before_meta for meta in self.fate.after_meta)

    @property
    def state(self) -> str:
        if not self.fate.number:
            return "new"
        if not self.after:
            return "dropped"
        return "changed" if self.fate.changed else "same"


class PreparePage(WorkspacePage):
    """Works without JavaScript: every button sends the whole form, and the page comes back with what it changed."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self._version(pk)
        target = TargetForm(initial={"to": version.dataset.name, "seed": 0, "start": 0})
        text = request.GET.get("steps", "")
        if not text:
            return self._show(version, StepForms(), target)
        try:
            steps = StepForms.of(_read(text))
        except UserError as error:
            return self._show(version, StepForms(), target, problems=[str(error)], status=400)
        return self._show(version, steps, target, look=True)

    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = self._version(pk)
        steps, target = StepForms.posted(request.POST), TargetForm(request.POST)
        what, _, which = request.POST.get("do", "preview").partition(":")
        if what == "prepare":
            return self._prepare(version, steps, target)
        if what == "text":
            try:
                steps = StepForms.of(_read(request.POST.get("text", "")))
            except UserError as error:
                return self._show(version, steps, target, problems=[str(error)], text=request.POST.get("text", ""))
        elif what in ("add", "remove", "up", "down"):
            try:
                steps = _rearranged(steps, what, request.POST.get("step", "") if what == "add" else which)
            except UserError as error:
                return self._show(version, steps, target, problems=[str(error)], status=400)
        elif what == "later":
            target = TargetForm(_later(target, version.rows))
        _go_on(steps, what, _whole(which))
        return self._show(version, steps, target, look=what != "add", pressed=what)

    def _version(self, pk: UUID) -> DatasetVersion:
        found = DatasetVersion.objects.select_related("dataset", "artifact", "workspace")
        version = access.find(found, self.actor, pk=pk)
        access.require(self.actor, "dataset.create", version)
        datasets.require_ready(version)
        return version

    def _prepare(self, version: DatasetVersion, steps: StepForms, target: TargetForm) -> HttpResponse:
        if not target.is_valid():
            return self._show(version, steps, target, status=400)
        data = target.cleaned_data
        to = data["to"] if data["to"] != version.dataset.name else ""
        try:
            made = preparations.prepare(version, steps.raw(), by=self.actor, to=to, seed=data["seed"] or 0)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            return self._refused(version, steps, target, problem)
        if len(made) > 1:
            messages.success(self.request, f"Being made: {', '.join(str(part) for part in made)}.")
        return redirect(made[0])

    def _refused(self, version: DatasetVersion, steps: StepForms, target: TargetForm, problem: Problem) -> HttpResponse:
        problems = steps.add_errors(
            {name: found for name, found in problem.errors.items() if name not in target.fields}
        )
        elsewhere = {name: found for name, found in problem.errors.items() if name in target.fields}
        if elsewhere or not problem.errors:
            add_problem(target, type(problem)(problem.detail if not elsewhere else "", errors=elsewhere))
        return self._show(version, steps, target, problems=problems, status=problem.status)

    def _show(
        self,
        version: DatasetVersion,
        steps: StepForms,
        target: TargetForm,
        *,
        look: bool = False,
        problems: list[str] | None = None,
        text: str = "",
        pressed: str = "",
        status: int = 200,
    ) -> HttpResponse:
        problems = list(problems or [])
        rows: list[PreviewRow] = []
        answer: Answer | None = None
        start = _start(target)
        if look and steps:
            try:
                answer = preparations.preview(
                    version, steps.raw(), by=self.actor, seed=_number(target, "seed"), start=start, rows=ROWS
                )
                rows = [_shown(row) for row in answer.rows]
            except Invalid as problem:
                problems += steps.add_errors(problem.errors)
            except Problem as problem:
                problems.append(problem.detail)
        return self.render(
            "datasets/prepare.html",
            status=status,
            version=version,
            dataset=version.dataset,
            steps=steps,
            target=target,
            choices=choices(),
            problems=problems,
            step_problems=[error for form in steps for found in form.errors.values() for error in found],
            rows=rows,
            said=_said(rows),
            pressed="" if "HX-Request" in self.request.headers else pressed,  # a part of the page takes no focus
            proposals=[] if steps else proposals(version),
            tallies=_with_labels(answer),
            first=start + 1,
            last=min(start + ROWS, version.rows),
            text=text or (json.dumps(steps.raw(), ensure_ascii=False, indent=1) if steps else ""),
            full=len(steps) >= MOST_STEPS,
            names=expressions.NAMES,
            functions=expressions.FUNCTIONS,
        )


def _read(text: str) -> Any:
    """Raises UserError for what is no JSON."""
    if len(text) > _LONGEST_TEXT:
        raise UserError(f"The steps have more than {_LONGEST_TEXT:,} characters.", field="steps")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"The steps are not JSON: {error}.", field="steps") from None


def _rearranged(steps: StepForms, what: str, which: str) -> StepForms:
    """The forms after a click on add, remove, up or down. `which` is a type, or a number from 1."""
    raw = steps.raw()
    if what == "add":
        if which in STEPS.names() and len(raw) < MOST_STEPS:
            raw.append({"type": which, **_first_values(which)})
    elif 1 <= _whole(which) <= len(raw):
        place = _whole(which) - 1
        step = raw.pop(place)
        if what != "remove":
            raw.insert(max(place + (1 if what == "down" else -1), 0), step)
    return StepForms.of(raw)


def _go_on(steps: StepForms, what: str, number: int) -> None:
    """After a click the keyboard is where it was: at the new step, or at the button of the one that was moved."""
    if what == "add" and steps:
        steps[-1].focus()
    elif what in ("up", "down"):
        place = number - 1 + (1 if what == "down" else -1)
        if 0 <= place < len(steps):
            steps[place].moved = what


def _said(rows: list[PreviewRow]) -> str:
    """The preview in one sentence, to be read aloud."""
    if not rows:
        return ""
    fates = Counter(row.state for row in rows)
    words = {"dropped": "dropped", "changed": "changed", "same": "as before", "new": "from elsewhere"}
    return (
        f"Of {len(rows)} rows {', '.join(f'{fates[state]} {word}' for state, word in words.items() if fates[state])}."
    )


def _first_values(name: str) -> dict[str, Any]:
    """What a new step begins with: needed parameters are filled in with an example."""
    params = STEPS.get(name).Params
    return {key: value for key, value in params.example.items() if key in params.model_fields}


def _number(target: TargetForm, name: str) -> int:
    """A number of the form, 0 for none or a wrong one: the form says so itself when it is sent."""
    return _whole(str(target[name].value() or ""))


def _whole(text: str) -> int:
    """A number of plain digits, 0 for anything else: '²' is a digit too, but no number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else 0


def _start(target: TargetForm) -> int:
    return _number(target, "start")


def _later(target: TargetForm, rows: int) -> dict[str, Any]:
    start = _start(target) + ROWS
    fields = {name: target[name].value() for name in target.fields}
    return {**fields, "start": start if start < rows else 0}


def _shown(row: Shown) -> PreviewRow:
    before = preview.shown(StoredRow(row.number, row.before, row.before_meta, "")) if row.before else None
    after = [
        preview.shown(StoredRow(row.number, made, meta, ""))
        for made, meta in zip(row.after, row.after_meta, strict=True)
    ]
    return PreviewRow(row, before, after)


def _with_labels(answer: Answer | None) -> list[dict[str, Any]]:
    return [{**tally, "label": STEPS.get(tally["type"]).label} for tally in answer.steps] if answer else []
