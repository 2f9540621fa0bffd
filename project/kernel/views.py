"""Sign in and out, workspaces, members, tokens, the docs, health."""

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.views import LoginView
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views import View

from project.kernel import access, docs
from project.kernel.actions import people, tokens
from project.kernel.api.problems import CONTENT_TYPE, api_not_found, document
from project.kernel.errors import NotFound, Problem
from project.kernel.forms import MemberForm, TokenForm, WorkspaceForm
from project.kernel.models import ApiToken, Membership, Role, User
from project.kernel.pages import SESSION_WORKSPACE, WorkspacePage, add_problem, memberships


class SignIn(LoginView):
    template_name = "account/sign_in.html"
    redirect_authenticated_user = True


class SignInByLink(View):
    """GET asks for a click (mail scanners open links), POST spends the link."""

    def get(self, request: HttpRequest, secret: str) -> HttpResponse:
        return render(request, "account/sign_in_link.html", {"secret": secret})

    def post(self, request: HttpRequest, secret: str) -> HttpResponse:
        try:
            user = people.use_sign_in_link(secret)
        except NotFound as problem:
            context = {"secret": secret, "problem": problem.detail}
            return render(request, "account/sign_in_link.html", context, status=404)
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return redirect("home")


class SwitchWorkspace(LoginRequiredMixin, View):
    def post(self, request: HttpRequest) -> HttpResponse:
        chosen = request.POST.get("workspace", "")
        if chosen not in {str(membership.workspace_id) for membership in memberships(request)}:
            raise NotFound("No such workspace.")
        request.session[SESSION_WORKSPACE] = chosen
        return redirect(_next(request) or reverse("home"))


class NewWorkspace(LoginRequiredMixin, View):
    """Anybody who signs in may make a workspace; they own it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return render(request, "account/workspace_new.html", {"form": WorkspaceForm()})

    def post(self, request: HttpRequest) -> HttpResponse:
        form = WorkspaceForm(request.POST)
        if form.is_valid():
            assert isinstance(request.user, User)  # noqa: S101  (LoginRequiredMixin saw to it)
            workspace = people.create_workspace(form.cleaned_data["name"], owner=request.user)
            request.session[SESSION_WORKSPACE] = str(workspace.pk)
            messages.success(request, f"Workspace {workspace} is ready.")
            return redirect("home")
        return render(request, "account/workspace_new.html", {"form": form}, status=400)


class Members(WorkspacePage):
    def get(self, request: HttpRequest, form: MemberForm | None = None, status: int = 200) -> HttpResponse:
        rows = (
            Membership.objects.filter(workspace=self.actor.workspace).select_related("user").order_by("user__username")
        )
        return self.render(
            "account/members.html",
            status=status,
            page=self.paged(rows),
            form=form or MemberForm(),
            roles=Role.choices,
            link=request.session.pop("new_member_link", None),
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        form = MemberForm(request.POST)
        if form.is_valid():
            try:
                membership, secret = people.add_member(**form.cleaned_data, by=self.actor)
            except Problem as problem:
                add_problem(form, problem)
            else:
                if secret:
                    request.session["new_member_link"] = request.build_absolute_uri(
                        reverse("sign-in-link", args=[secret])
                    )
                messages.success(request, f"{membership.user.label()} is now {membership.role} here.")
                return redirect("members")
        return self.get(request, form, 400)


class ChangeMember(WorkspacePage):
    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        membership = access.find(Membership.objects.select_related("user"), self.actor, pk=pk)
        if "remove" in request.POST:
            self.attempt(
                lambda: people.remove_member(membership, by=self.actor),
                f"{membership.user.label()} is no longer a member.",
            )
        else:
            role = request.POST.get("role", "")
            self.attempt(
                lambda: people.change_role(membership, role, by=self.actor), f"{membership.user.label()} is now {role}."
            )
        return redirect("members")


class Tokens(WorkspacePage):
    def get(self, request: HttpRequest, form: TokenForm | None = None, status: int = 200) -> HttpResponse:
        rows = access.visible(ApiToken.objects.select_related("user"), self.actor).order_by("-created_at")
        if not self.actor.may("token.manage"):
            rows = rows.filter(user=request.user)  # type: ignore[misc]
        context = {"page": self.paged(rows), "form": form or TokenForm(actor=self.actor)}
        return self.render("account/tokens.html", status=status, **context)

    def post(self, request: HttpRequest) -> HttpResponse:
        form = TokenForm(request.POST, actor=self.actor)
        if form.is_valid():
            data = form.cleaned_data
            days = data.pop("expires_in_days")
            try:
                token, secret = tokens.create(
                    **data, expires_at=timezone.now() + timedelta(days=days) if days else None, by=self.actor
                )
            except Problem as problem:
                add_problem(form, problem)
            else:
                response = self.render("account/token_created.html", token=token, secret=secret)
                response.headers["Cache-Control"] = "no-store"
                return response
        return self.get(request, form, 400)


class RevokeToken(WorkspacePage):
    def post(self, request: HttpRequest, pk: str) -> HttpResponse:
        token = access.find(ApiToken.objects.all(), self.actor, pk=pk)
        self.attempt(lambda: tokens.revoke(token, by=self.actor), f"{token.name} can no longer be used.")
        return redirect("tokens")


class Docs(View):
    """The documentation, to everybody: it holds nothing of anybody's."""

    def get(self, request: HttpRequest, name: str = "index") -> HttpResponse:
        page = docs.page(name)
        if page is None:
            raise Http404("There is no such page in the documentation.")
        return render(request, "docs/page.html", {"doc": page, "docs": docs.contents()})


def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return HttpResponse("ok\n", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """The process can do work: its database answers and its data folder can be written."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        probe = Path(settings.DATA_PATH) / ".readyz"
        probe.touch()
    except Exception:  # whatever it is, a load balancer must hear 'no', and nothing more
        return HttpResponse("not ready\n", content_type="text/plain", status=503)
    return HttpResponse("ok\n", content_type="text/plain")


def _next(request: HttpRequest) -> str:
    target = request.POST.get("next", "")
    return target if url_has_allowed_host_and_scheme(target, {request.get_host()}, request.is_secure()) else ""


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith(("/api/", "/v1/")):
        return api_not_found(request)
    return render(request, "errors/404.html", {"problem": NotFound("There is no page at this address.")}, status=404)


def server_error(request: HttpRequest) -> HttpResponse:
    """Our own mistake. As plain as possible: whatever broke may be needed to render a page."""
    if request.path.startswith(("/api/", "/v1/")):
        body = document(500, "Server error", "Something broke on our side; the log of the web process says what.")
        return JsonResponse(body, status=500, content_type=CONTENT_TYPE)
    return HttpResponse(render_to_string("errors/500.html"), status=500)  # context processors may be what broke


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "errors/400.html", status=400)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "errors/403.html", status=403)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form without its CSRF token: an old tab, most of the time."""
    return render(
        request, "errors/403.html", {"reason": "This form was too old. Go back, reload and send it again."}, status=403
    )
