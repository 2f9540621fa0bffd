"""Tests: the list, a new one, one with its results, and its buttons."""

from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from abtests import reading
from abtests.actions import abtests
from abtests.counting import arms
from abtests.forms import ABTestForm
from abtests.models import ABTest, TestState
from project.kernel import access
from project.kernel.errors import NotFound, Problem
from project.kernel.pages import WorkspacePage
from registry.models import Route

DONE = {
    "start": "It is running: users are being shared out now.",
    "pause": "Paused. Production answers everybody until you go on.",
    "stop": "Stopped. Its numbers stay here.",
    "delete": "Deleted.",
}
MANY = 20_000  # answers, beyond which counting them every few seconds would cost more than it tells


def _tests() -> Any:
    return ABTest.objects.select_related("model", "winner__version__model").prefetch_related(
        "variants__version__model", "variants__deployment"
    )


class ABTests(WorkspacePage):
    """All tests, newest first."""

    def get(self, request: HttpRequest) -> HttpResponse:
        access.require(self.actor, "abtest.read", self.actor.workspace)
        rows = access.visible(_tests(), self.actor)
        if words := request.GET.get("search", "").replace("\0", "").strip():
            rows = rows.filter(Q(name__icontains=words) | Q(model__name__icontains=words))
        if (state := request.GET.get("state")) in TestState.values:
            rows = rows.filter(state=state)
        filtered = any(request.GET.get(name) for name in ("search", "state"))
        return self.render("abtests/abtests.html", page=self.paged(rows), states=TestState.choices, filtered=filtered)


class NewABTest(WorkspacePage):
    """Choose versions, shares and what matters."""

    def get(self, request: HttpRequest, form: ABTestForm | None = None, status: int = 200) -> HttpResponse:
        access.require(self.actor, "abtest.create", self.actor.workspace)
        wanted = request.GET.getlist("version")[:4]  # links from elsewhere name what to compare
        initial = {f"version_{key}": version for key, version in zip("abcd", wanted, strict=False)}
        form = form or ABTestForm(by=self.actor, initial=initial)
        return self.render("abtests/abtest_new.html", form=form, status=status)

    def post(self, request: HttpRequest) -> HttpResponse:
        form = ABTestForm(request.POST, by=self.actor)
        if form.is_valid():
            data = form.cleaned_data
            try:
                test = abtests.create(
                    name=data["name"],
                    description=data["description"],
                    metrics=data["metrics"],
                    variants=form.shares(),
                    by=self.actor,
                )
            except Problem as problem:
                if problem.status == 403:
                    raise
                form.add_problem(problem)
            else:
                messages.success(request, f"'{test}' is a draft. Start it when its versions are healthy.")
                return redirect("abtest", test.pk)
        return self.get(request, form, 400)


class ABTestPage(WorkspacePage):
    """What was counted until now, in words, numbers and bars."""

    def get(self, request: HttpRequest, pk: str) -> HttpResponse:
        access.require(self.actor, "abtest.read", self.actor.workspace)
        test = access.find(_tests(), self.actor, pk=pk)
        results = arms.count(test)
        variants = list(test.variants.all())
        waiting = [variant for variant in variants if not (variant.deployment and variant.deployment.is_healthy)]
        route = Route.objects.filter(model=test.model).exclude(owner__in=("", test.owner)).first()
        return self.render(
            "abtests/abtest.html",
            test=test,
            results=results,
            arms=list(zip(variants, results.arms, strict=True)),
            fresh=test.state == TestState.DRAFT,
            metrics=[abtests.METRICS[name] for name in test.metrics if name in abtests.METRICS],
            rows=reading.rows(results, test.metrics),
            headline=reading.headline(results, test.metrics),
            caution=reading.caution(results),
            wanted=[variant.weight for variant in variants],
            seen=[arm.units for arm in results.arms],
            waiting=waiting if test.state in (TestState.DRAFT, TestState.PAUSED) else [],
            held=route is not None and test.state in (TestState.DRAFT, TestState.PAUSED),
            refresh=0 if test.state == TestState.STOPPED else 5 if results.answers < MANY else 60,
        )


class StepABTest(WorkspacePage):
    """Start, pause, stop or delete."""

    def post(self, request: HttpRequest, pk: str, verb: str) -> HttpResponse:
        test = access.find(ABTest.objects.select_related("model"), self.actor, pk=pk)
        match verb:
            case "start":
                self.attempt(lambda: abtests.start(test, by=self.actor), DONE[verb])
            case "pause":
                self.attempt(lambda: abtests.pause(test, by=self.actor), DONE[verb])
            case "stop":
                winner = request.POST.get("winner") or None
                self.attempt(lambda: abtests.stop(test, by=self.actor, winner=winner), DONE[verb])
            case "delete":
                if self.attempt(lambda: abtests.delete(test, by=self.actor), DONE[verb]):
                    return redirect("abtests")
            case _:
                raise NotFound("There is no such step.")
        return redirect(reverse("abtest", args=[pk]))
