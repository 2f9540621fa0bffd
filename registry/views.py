"""Pages of models, versions and comparisons."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from project.jobs.models import TERMINAL, Job
from project.kernel import access
from project.kernel.errors import Invalid, NotFound, Problem
from project.kernel.pages import WorkspacePage, add_problem
from project.kernel.templatetags import tuneloop
from registry import comparison, gates, lineage, sources
from registry.actions import deployments, models, scores, versions
from registry.actions.references import resolve
from registry.forms import ImportForm, ModelForm, NotesForm
from registry.models import Deployment, ModelVersion, RegisteredModel, Route, Score, Stage, VersionKind
from registry.queries import models_with_versions, versions_with_all
from registry.recipes import import_model as recipe


class Models(WorkspacePage):
    """All models: what is in production, does it answer, how good is it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        rows = access.visible(models_with_versions(), self.actor).order_by("-updated_at", "-id")
        search = request.GET.get("search", "").strip()
        if search:
            rows = rows.filter(Q(name__icontains=search) | Q(description__icontains=search))
        page = self.paged(rows)
        for model in page:
            model.live = next(iter(model.production_list), None)
            model.deployment = next(iter(model.live.wanted_list), None) if model.live else None
        newest = scores.newest([model.live for model in page if model.live])
        for model in page:
            model.score = scores.main(newest.get(model.live.pk, [])) if model.live else None
        return self.render(
            "models/list.html",
            page=page,
            search=search,
            imports=imports_under_way(self),
            base_source=sources.BASE_PACKAGE,
        )


def imports_under_way(page: WorkspacePage) -> list[Job]:
    jobs = access.visible(Job.objects.filter(recipe=recipe.name).exclude(state__in=TERMINAL), page.actor)
    return list(jobs.order_by("-id")[:5])


class ImportModel(WorkspacePage):
    def get(self, request: HttpRequest, form: ImportForm | None = None, status: int = 200) -> HttpResponse:
        form = form or ImportForm(bases=self.bases())
        return self.render("models/import.html", form=form, status=status, base_source=sources.BASE_PACKAGE)

    def post(self, request: HttpRequest) -> HttpResponse:
        data = request.POST.copy()
        data.setdefault("dtype", "auto")  # the one-click button of the empty list sends the source only
        form = ImportForm(data, bases=self.bases())
        if form.is_valid():
            try:
                job = models.import_model(**form.cleaned_data, workspace=self.actor.workspace, by=self.actor)
            except Problem as problem:
                add_problem(form, problem)
            else:
                return redirect("job", job.pk)
        return self.get(request, form, 400)

    def bases(self) -> list[tuple[str, str]]:
        rows = access.visible(ModelVersion.objects.filter(kind=VersionKind.FULL), self.actor).select_related("model")
        return [(str(version.pk), str(version)) for version in rows.order_by("model__name", "-number")[:200]]


class Model(WorkspacePage):
    """One model: its versions, who answers, what happened."""

    def get(self, request: HttpRequest, pk: UUID, form: ModelForm | None = None, status: int = 200) -> HttpResponse:
        model = access.find(models_with_versions(), self.actor, pk=pk)
        wanted = Prefetch("deployments", Deployment.objects.filter(wanted=True), to_attr="wanted_list")
        page = self.paged(versions_with_all().filter(model=model).prefetch_related(wanted).order_by("-number"), size=25)
        newest = scores.newest(list(page))
        for version in page:
            version.deployment = next(iter(version.wanted_list), None)
            version.score = scores.main(newest.get(version.pk, []))
        arms = Prefetch("arms__deployment", Deployment.objects.select_related("version__model"))
        route = Route.objects.filter(model=model).prefetch_related(arms).first()
        history = list(model.stage_changes.order_by("-id")[:20])
        live: ModelVersion | None = next(iter(model.production_list), None)  # type: ignore[attr-defined]
        start = {"name": model.name, "description": model.description, "tags": ", ".join(model.tags)}
        return self.render(
            "models/model.html",
            model=model,
            page=page,
            route=route,
            arms=list(route.arms.all()) if route else [],
            live=live,
            base=live.foundation if live else None,
            history=history,
            form=form or ModelForm(initial=start),
            busy=any(version.deployment and version.deployment.is_changing for version in page),
            status=status,
        )

    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        model = access.find(RegisteredModel.objects.all(), self.actor, pk=pk)
        form = ModelForm(request.POST)
        if form.is_valid():
            try:
                models.edit(model, **form.cleaned_data, by=self.actor)
            except Problem as problem:
                add_problem(form, problem)
            else:
                return redirect(model)
        return self.get(request, pk, form, 400)


class DeleteModel(WorkspacePage):
    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        model = access.find(RegisteredModel.objects.all(), self.actor, pk=pk)
        if self.attempt(lambda: models.delete(model, by=self.actor), f"{model.name} is deleted."):
            return redirect("models")
        return redirect("model", pk)


class Version(WorkspacePage):
    """One version: what it is, how good it is, where it came from, and what may be done with it."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        version = access.find(versions_with_all(), self.actor, pk=pk)
        verdicts = gates.examine(version)
        deployment = version.deployments.filter(wanted=True).select_related("engine").first()
        rest = version.model.versions.exclude(pk=version.pk).select_related("model").order_by("-number")
        return self.render(
            "models/version.html",
            version=version,
            model=version.model,
            scores=scores.newest([version]).get(version.pk, []),
            verdicts=verdicts,
            refusal=gates.refusals(verdicts),
            deployment=deployment,
            lineage=lineage.of(version),
            history=list(version.stage_changes.order_by("-id")[:20]),
            facts={key: shown(key, value) for key, value in comparison.flatten(version.facts).items()},
            config={key: shown(key, value) for key, value in comparison.flatten(version.config).items()},
            files=version.artifact.files(),
            others=list(rest[:20]),
            form=NotesForm(initial={"notes": version.notes}),
            busy=deployment is not None and deployment.is_changing,
        )


class StepVersion(WorkspacePage):
    """The buttons of a version's page."""

    def post(self, request: HttpRequest, pk: UUID, verb: str) -> HttpResponse:
        version = access.find(versions_with_all(), self.actor, pk=pk)
        comment = request.POST.get("comment", "")[:2000]
        by = self.actor
        verbs: dict[str, tuple[Callable[[], Any], str]] = {
            "submit": (lambda: versions.submit(version, by=by, comment=comment), f"{version} is in staging."),
            "approve": (lambda: versions.approve(version, by=by, comment=comment), f"{version} is approved."),
            "promote": (lambda: versions.promote(version, by=by, comment=comment), f"{version} is in production."),
            "archive": (lambda: versions.archive(version, by=by, comment=comment), f"{version} is archived."),
            "deploy": (lambda: deployments.deploy(version, by=by), f"{version} is being deployed."),
            "notes": (lambda: versions.annotate(version, notes=request.POST.get("notes", ""), by=by), "Notes kept."),
            "delete": (lambda: versions.delete(version, by=by), f"{version} is deleted."),
        }
        if verb not in verbs:
            raise NotFound("There is no such button.")
        call, done = verbs[verb]
        if self.attempt(call, done) and verb == "delete":
            return redirect("model", version.model_id)
        return redirect("model-version", pk)


class StopDeployment(WorkspacePage):
    def post(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        deployment = access.find(Deployment.objects.select_related("version__model", "engine"), self.actor, pk=pk)
        self.attempt(lambda: deployments.stop(deployment, by=self.actor), f"{deployment.version} stops answering.")
        return redirect("model-version", deployment.version_id)


class Compare(WorkspacePage):
    """Two to five versions side by side. Without a choice it offers one."""

    def get(self, request: HttpRequest) -> HttpResponse:
        names = [part for value in request.GET.getlist("versions") for part in value.split(",") if part.strip()]
        found: list[ModelVersion] = []
        problem = ""
        try:
            if len(names) > comparison.MOST:
                raise Invalid(f"Compare at most {comparison.MOST} versions at a time.")
            found = [resolve(self.actor.workspace, name, field="versions") for name in dict.fromkeys(names)]
        except Problem as error:
            problem = error.detail
        if not problem and len(names) == 1:
            problem = "Choose at least two versions."
        choices = access.visible(versions_with_all().exclude(stage=Stage.ARCHIVED), self.actor)
        context = side_by_side(comparison.compare(found)) if len(found) > 1 else {}
        return self.render(
            "models/compare.html",
            status=400 if problem and len(names) != 1 else 200,
            problem=problem,
            chosen={str(version.pk) for version in found},
            choices=choices.order_by("model__name", "-number")[:100],
            most=comparison.MOST,
            api=f"{reverse('api-model-list')}compare/?versions={','.join(str(version.pk) for version in found)}",
            **context,
        )


def side_by_side(found: comparison.Comparison) -> dict[str, Any]:
    """A comparison as rows of cells, for the template."""
    names = {index: str(version) for index, version in enumerate(found.versions)}
    rows = [
        {
            "metric": line.metric,
            "data_label": line.data_label,
            "data_digest": line.data_digest,
            "cells": [
                {"score": score, "delta": delta, "change": change(score, delta)}
                for score, delta in zip(line.values, line.deltas, strict=True)
            ],
        }
        for line in found.scores
    ]
    tables = [
        (title, [(row, [shown(row.key, value) for value in row.values]) for row in table])
        for title, table in (("Configuration", found.config), ("Facts", found.facts))
    ]
    return {"comparison": found, "rows": rows, "names": names, "tables": tables}


def change(score: Score | None, delta: comparison.Delta | None) -> str:
    """A difference in words: '+9.0 points (2.6 to 15.4)' for shares, else in the unit of the score."""
    if score is None or delta is None:
        return ""

    def text(value: float) -> str:
        if score.is_share:
            return f"{value * 100:.1f}"
        if score.unit == "seconds":
            return f"{value * 1000:.0f}" if abs(value) < 1 else f"{value:.2f}"
        return f"{value:.3g}"

    unit = " points" if score.is_share else ""
    if score.unit == "seconds":
        unit = " ms" if abs(delta.value) < 1 else " s"
    sign = "+" if delta.value >= 0 else ""
    between = f" ({text(delta.low)} to {text(delta.high)})" if delta.low is not None and delta.high is not None else ""
    return f"{sign}{text(delta.value)}{unit}{between}".replace("-", "\u2212")


def shown(key: str, value: Any) -> str:
    """One fact or setting as people read it."""
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "parameters":
        return tuneloop.compact(value)
    if key == "bytes":
        return tuneloop.filesize(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
