"""What pages share: the signed-in actor, the current workspace, problems as messages, paged lists."""

from collections.abc import Callable
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.mixins import LoginRequiredMixin
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views import View

from project.kernel.access import Actor
from project.kernel.errors import NotReady, Problem
from project.kernel.models import Membership, Role, User

SESSION_WORKSPACE = "workspace"


def memberships(request: HttpRequest) -> list[Membership]:
    """The signed-in user's memberships, read once per request."""
    known = getattr(request, "_memberships", None)
    if known is None:
        user = request.user
        known = (
            list(Membership.objects.filter(user=user).select_related("workspace").order_by("workspace__name"))
            if isinstance(user, User)
            else []
        )
        request._memberships = known  # type: ignore[attr-defined]
    return cast(list[Membership], known)


def current_membership(request: HttpRequest) -> Membership | None:
    """The membership of the workspace the user is looking at: the chosen one, else their first."""
    chosen = request.session.get(SESSION_WORKSPACE) if hasattr(request, "session") else None
    mine = memberships(request)
    return next((m for m in mine if str(m.workspace_id) == chosen), mine[0] if mine else None)


def current_actor(request: HttpRequest) -> Actor | None:
    """The signed-in user in the current workspace, or None when they have none."""
    membership = current_membership(request)
    if membership is None:
        return None
    return Actor.for_membership(membership, user=cast(User, request.user), workspace=membership.workspace)


def page_actor(request: HttpRequest) -> Actor:
    """Like `current_actor`, but raises NotReady for somebody without a workspace."""
    actor = current_actor(request)
    if actor is None:
        raise NotReady("You belong to no workspace yet. Ask an owner to add you, or create one.")
    return actor


def workspace_context(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `workspace`, `role`, `memberships`, `actor`, and `may.<verb with _>`, on every page."""
    if not getattr(request, "user", None) or not request.user.is_authenticated:
        return {}
    membership = current_membership(request)
    if membership is None:
        return {"memberships": []}
    actor = current_actor(request)
    return {
        "workspace": membership.workspace,
        "role": Role(membership.role),
        "memberships": memberships(request),
        "actor": actor,
        "may": May(actor) if actor else None,
    }


class May:
    """`{% if may.dataset_create %}` asks access.may('dataset.create')."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __getitem__(self, name: str) -> bool:
        noun, _, action = name.partition("_")
        return self._actor.may(f"{noun}.{action}")


class WorkspacePage(LoginRequiredMixin, View):
    """A page inside a workspace: `self.actor`, `self.render(template, **context)`, `self.attempt(call)`."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_authenticated:
            self.actor = page_actor(request)
        return super().dispatch(request, *args, **kwargs)

    def render(self, template: str, *, status: int = 200, **context: Any) -> HttpResponse:
        return render(self.request, template, context, status=status)

    def attempt(self, call: Callable[[], Any], done: str = "") -> bool:
        """Do `call`; say `done`, or the problem, as a message. For buttons; forms show errors at their fields."""
        try:
            call()
        except Problem as problem:
            if problem.status == 404:
                raise
            messages.error(self.request, problem.detail)
            return False
        if done:
            messages.success(self.request, done)
        return True

    def paged(self, queryset: QuerySet[Any], *, size: int = 50) -> Page[Any]:
        """The page that `?page=` asks for; a page that does not exist is the nearest one."""
        return Paginator(queryset, size).get_page(self.request.GET.get("page"))


def add_problem(form: Any, problem: Problem) -> None:
    """Show a problem at the form's fields; what belongs to no field of the form goes on top."""
    for field, errors in problem.errors.items():
        for error in errors:
            form.add_error(
                field if field in form.fields else None, error if field in form.fields else f"{field}: {error}"
            )
    if not problem.errors:
        form.add_error(None, problem.detail)
