"""The pages of endpoints: models elsewhere that write data, and whether they answer."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from project.kernel import access
from project.kernel.actions import endpoints
from project.kernel.errors import Problem
from project.kernel.forms import EndpointForm
from project.kernel.models import AuditEntry, Endpoint
from project.kernel.pages import WorkspacePage, add_problem

_SHOWN = 30  # entries of an endpoint's history
_HAPPENED = {
    "endpoint.created": "Created",
    "endpoint.changed": "Changed",
    "endpoint.checked": "Checked",
    "endpoint.used": "Used by a job",
}


def _ask_again(form: EndpointForm) -> None:
    """A form that is shown again has no token in it: without a word, an endpoint would be made without one."""
    if form.data.get("token") and "token" not in form.errors:
        form.add_error("token", "Enter it once more: what was sent is never sent back.")


class Endpoints(WorkspacePage):
    def get(self, request: HttpRequest) -> HttpResponse:
        rows = access.visible(Endpoint.objects.all(), self.actor).order_by("name")
        return self.render("account/endpoints.html", page=self.paged(rows))


class NewEndpoint(WorkspacePage):
    def get(self, request: HttpRequest, form: EndpointForm | None = None, status: int = 200) -> HttpResponse:
        access.require(self.actor, "endpoint.manage", self.actor.workspace)
        return self.render("account/endpoint.html", status=status, form=form or EndpointForm(), endpoint=None)

    def post(self, request: HttpRequest) -> HttpResponse:
        form = EndpointForm(request.POST)
        if form.is_valid():
            try:
                endpoint = endpoints.create(**form.cleaned_data, by=self.actor)
            except Problem as problem:
                add_problem(form, problem)
            else:
                messages.success(request, f"{endpoint} is kept. Check whether it answers.")
                return redirect("endpoints")
        _ask_again(form)
        return self.get(request, form, 400)


class EditEndpoint(WorkspacePage):
    def get(self, request: HttpRequest, pk: str, form: EndpointForm | None = None, status: int = 200) -> HttpResponse:
        endpoint = self._endpoint(pk)
        kept = {"name": endpoint.name, "url": endpoint.url, "model": endpoint.model}
        form = form or EndpointForm(initial=kept, has_token=endpoint.secret_id is not None)
        told = AuditEntry.objects.filter(object_kind="endpoint", object_id=str(endpoint.pk)).order_by("-id")
        history = [(_HAPPENED.get(entry.verb, entry.verb), entry) for entry in told[:_SHOWN]]
        return self.render("account/endpoint.html", status=status, form=form, endpoint=endpoint, history=history)

    def post(self, request: HttpRequest, pk: str) -> HttpResponse:
        endpoint = self._endpoint(pk)
        form = EndpointForm(request.POST, has_token=endpoint.secret_id is not None)
        if form.is_valid():
            data = form.cleaned_data
            token = "" if data.get("remove_token") else data["token"] or None
            try:
                endpoints.change(
                    endpoint, name=data["name"], url=data["url"], model=data["model"], token=token, by=self.actor
                )
            except Problem as problem:
                add_problem(form, problem)
            else:
                messages.success(request, f"{data['name']} is changed.")
                return redirect("endpoints")
        _ask_again(form)
        return self.get(request, pk, form, 400)

    def _endpoint(self, pk: str) -> Endpoint:
        endpoint = access.find(Endpoint.objects.select_related("secret"), self.actor, pk=pk)
        access.require(self.actor, "endpoint.manage", endpoint)
        return endpoint


class CheckEndpoint(WorkspacePage):
    def post(self, request: HttpRequest, pk: str) -> HttpResponse:
        endpoint = access.find(Endpoint.objects.select_related("secret"), self.actor, pk=pk)
        self.attempt(lambda: self._check(endpoint))
        return redirect("endpoints")

    def _check(self, endpoint: Endpoint) -> None:
        found = endpoints.check(endpoint, by=self.actor)
        tell = messages.success if found.ok else messages.error
        tell(self.request, f"{endpoint}: {found.detail} {found.hint}".strip())


class DeleteEndpoint(WorkspacePage):
    def post(self, request: HttpRequest, pk: str) -> HttpResponse:
        endpoint = access.find(Endpoint.objects.select_related("secret"), self.actor, pk=pk)
        self.attempt(lambda: endpoints.delete(endpoint, by=self.actor), f"{endpoint} is deleted.")
        return redirect("endpoints")
