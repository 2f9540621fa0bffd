"""The page where a model is asked to write data."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from project.kernel import access
from project.kernel.errors import Problem
from project.kernel.models import Endpoint
from project.kernel.pages import WorkspacePage
from training.actions import synthesis
from training.queries import data_to_offer, versions_to_offer
from training.writing_forms import FORMS, KINDS, WritingForm

_FIELDS = {"dataset": "rows", "endpoint": "writer", "model": "writer"}


class WriteData(WorkspacePage):
    """`?kind=` says from what; `?data=` chooses a version."""

    def get(self, request: HttpRequest) -> HttpResponse:
        chosen = request.GET.get("data", "")
        return self.show(self.form(initial={"documents": chosen, "seeds": chosen, "rows": chosen}))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = self.form(request.POST)
        if not form.is_valid():
            return self.show(form, status=400)
        try:
            start = synthesis.augment if self.kind == "augment" else synthesis.synthesize
            version = start(**form.body(), by=self.actor)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            for field, messages in (problem.errors or {"": [problem.detail]}).items():
                name = field.removeprefix("generation_config.")
                name = _FIELDS.get(name, name)
                for message in messages:
                    form.add_error(name if name in form.fields else None, message)
            return self.show(form, status=400)
        return redirect("job", version.job_id)

    @property
    def kind(self) -> str:
        kind = self.request.GET.get("kind", "")
        return kind if kind in KINDS else "templates"

    def form(self, *args: Any, **kwargs: Any) -> WritingForm:
        access.require(self.actor, "dataset.create", self.actor.workspace)
        endpoints = access.visible(Endpoint.objects.order_by("name"), self.actor)[:500]
        writers = [(f"endpoint:{endpoint.pk}", f"{endpoint} ({endpoint.model})") for endpoint in endpoints]
        writers += [(f"model:{pk}", label) for pk, label in versions_to_offer(self.actor)]
        return FORMS[self.kind](*args, writers=writers, data_sets=data_to_offer(self.actor), **kwargs)

    def show(self, form: WritingForm, *, status: int = 200) -> HttpResponse:
        context = {"form": form, "kind": self.kind, "kinds": KINDS.items(), "data": self.request.GET.get("data", "")}
        return self.render("training/write.html", status=status, **context)
