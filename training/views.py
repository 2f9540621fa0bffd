"""Pages: launch a fine-tune; evaluations, one of them, two side by side."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import yaml
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from project.jobs.models import Job
from project.kernel import access
from project.kernel.errors import Invalid, Problem
from project.kernel.pages import WorkspacePage, add_problem
from training import answers, jobfile
from training.actions import checkpoints, evaluations, finetunes
from training.documents import read_yaml_or_json
from training.engine.methods_registry import TARGETS
from training.forms import EvaluationForm, JobFileForm, LaunchForm
from training.methods import matrix
from training.models import FineTune
from training.models.evaluations import for_people
from training.pages import pair_of, sliced
from training.planning import defaults, find_base, find_data, find_version, found_at, training_recipes
from training.queries import data_to_offer, evaluations_with_all, versions_to_offer


class Launch(WorkspacePage):
    """Start a fine-tune: fill in the form, or paste a job file."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.show(self.form(document=self.start_from()))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = self.form(data=request.POST)
        form.is_valid()
        try:
            config = jobfile.parse(form.document())
            job = finetunes.launch(config, by=self.actor, start="draft" not in request.POST)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            form.blame(problem.errors or {"": [problem.detail]})
            return self.show(form, status=400)
        return redirect("job", job.pk)

    def form(self, *, data: Any = None, document: Mapping[str, Any] | None = None) -> LaunchForm:
        return LaunchForm(
            data,
            bases=versions_to_offer(self.actor, full_only=True),
            data_sets=data_to_offer(self.actor),
            recipes=[(recipe.name, recipe.label) for recipe in training_recipes()],
            defaults=defaults(),
            document=document,
        )

    def start_from(self) -> Mapping[str, Any]:
        """What the address says: `?base=&data=` are references, `?from=` is the job of an earlier fine-tune."""
        query, workspace = self.request.GET, self.actor.workspace
        document: dict[str, Any] = {}
        if earlier := query.get("from"):
            document = dict(access.find(FineTune.objects.all(), self.actor, job_id=earlier).config)
        for name, section, field, find in (
            ("base", "model", "base_model", find_base),
            ("data", "data", "dataset", find_data),
        ):
            if reference := query.get(name):
                try:
                    found = find(reference, workspace=workspace)
                except Problem:  # an old link: the form is shown without it
                    continue
                document[section] = {**document.get(section, {}), field: str(found.pk)}
        return document

    def show(self, form: LaunchForm, *, file: JobFileForm | None = None, status: int = 200) -> HttpResponse:
        return self.render(
            "training/new.html",
            form=form,
            file=file or JobFileForm(initial={"job_file": example(form)}),
            pasted=file is not None,
            status=status,
        )


class Methods(WorkspacePage):
    """Every method, and where its results can answer."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.render("training/methods.html", lines=matrix(), targets=TARGETS.values(), section="jobs")


class RegisterCheckpoint(WorkspacePage):
    """The button beside a checkpoint."""

    def post(self, request: HttpRequest, pk: UUID, step: int) -> HttpResponse:
        job = access.find(Job.objects.all(), self.actor, pk=pk)
        made = [job]
        self.attempt(lambda: made.append(checkpoints.register_checkpoint(job, step, by=self.actor)))
        return redirect("job", made[-1].pk)


class LaunchFile(Launch):
    """The same from a pasted job file."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return redirect("training-new")

    def post(self, request: HttpRequest) -> HttpResponse:
        file = JobFileForm(request.POST)
        if file.is_valid():
            try:
                config = jobfile.parse(read_yaml_or_json(file.cleaned_data["job_file"]))
                job = finetunes.launch(config, by=self.actor, start="draft" not in request.POST)
            except Problem as problem:
                if problem.status in (403, 404):
                    raise
                for path, messages in (problem.errors or {"": [problem.detail]}).items():
                    for message in messages:
                        file.add_error("job_file", f"{path}: {message}" if path else message)
            else:
                return redirect("job", job.pk)
        return self.show(self.form(), file=file, status=400)


def example(form: LaunchForm) -> str:
    """What the form starts with, as a job file to go on from."""
    chosen = form.initial
    model, data = chosen.get("base_model") or "NAME", chosen.get("dataset") or "NAME"
    document = {
        "name": chosen.get("name") or "my-model",
        "model": {"base_model": model, "name": chosen.get("model_name") or "my-model"},
        "data": {"dataset": data, "validation_split": chosen["validation_split"]},
        "recipe": chosen["recipe"],
        "method": {"type": "lora", "r": chosen["r"], "alpha": chosen["alpha"]},
        "hyperparameters": {"epochs": chosen["epochs"], "batch_size": chosen["batch_size"]},
        "evaluation": {"metrics": list(chosen["metrics"])},
    }
    return str(yaml.safe_dump(document, sort_keys=False, default_flow_style=None))


class Evaluations(WorkspacePage):
    """All evaluations, newest first. Two of them can be ticked and compared."""

    def get(self, request: HttpRequest) -> HttpResponse:
        rows = access.visible(evaluations_with_all(), self.actor).order_by("-id")
        search = request.GET.get("search", "").strip().replace("\0", "")
        if search:
            by_model = rows.filter(version__model__name__icontains=search)
            rows = by_model | rows.filter(data_version__dataset__name__icontains=search)
        page = self.paged(rows, size=25)
        return self.render(
            "training/evaluations.html",
            page=page,
            search=search,
            section="models",
            busy=any(not evaluation.job.is_terminal for evaluation in page),
        )


class NewEvaluation(WorkspacePage):
    def get(self, request: HttpRequest) -> HttpResponse:
        start: dict[str, Any] = {"metrics": list(evaluations.DEFAULT_METRICS)}
        for name, field, find in (("version", "model_version", find_version), ("data", "dataset_version", find_data)):
            if reference := request.GET.get(name):
                try:
                    start[field] = str(find(reference, workspace=self.actor.workspace).pk)
                except Problem:  # an old link: the form is shown without it
                    continue
        return self.show(self.form(initial=start))

    def post(self, request: HttpRequest) -> HttpResponse:
        form = self.form(request.POST)
        form.is_valid()
        try:
            job = self.launch(form)
        except Problem as problem:
            if problem.status in (403, 404):
                raise
            add_problem(form, problem)
            return self.show(form, status=400)
        return redirect("evaluation", job.evaluation.pk)

    def launch(self, form: EvaluationForm) -> Any:
        body, workspace = form.body(), self.actor.workspace
        for field in ("model_version", "dataset_version"):
            if not body.get(field):
                raise Invalid(errors={field: ["Choose one."]})
        version = found_at("model_version", lambda: find_version(body["model_version"], workspace=workspace))
        data = found_at("dataset_version", lambda: find_data(body["dataset_version"], workspace=workspace))
        return evaluations.launch(
            version,
            data,
            metrics=body.get("metrics", []),
            limit=whole(body.get("limit"), "limit"),
            max_new_tokens=whole(body.get("max_new_tokens"), "max_new_tokens"),
            by=self.actor,
        )

    def form(self, *args: Any, **kwargs: Any) -> EvaluationForm:
        versions, data_sets = versions_to_offer(self.actor), data_to_offer(self.actor)
        return EvaluationForm(*args, versions=versions, data_sets=data_sets, **kwargs)

    def show(self, form: EvaluationForm, *, status: int = 200) -> HttpResponse:
        return self.render("training/evaluation_new.html", form=form, section="models", status=status)


def whole(text: str | None, field: str) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        raise Invalid(errors={field: ["Must be a whole number."]}) from None


class EvaluationPage(WorkspacePage):
    """The scores with their intervals, and every answer."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        evaluation = access.find(evaluations_with_all(), self.actor, pk=pk)
        verdict = request.GET.get("verdict", "")
        verdict = verdict if verdict in answers.VERDICTS else ""
        search = request.GET.get("search", "").strip()
        page = None
        if evaluation.answers is not None:
            page = sliced(
                request,
                lambda offset, limit: answers.some(
                    evaluation, offset=offset, limit=limit, verdict=verdict, search=search
                ),
            )
        others = access.visible(evaluations_with_all(), self.actor).filter(
            data_version__digest=evaluation.data_version.digest, answers__isnull=False
        )
        return self.render(
            "training/evaluation.html",
            evaluation=evaluation,
            job=evaluation.job,
            page=page,
            verdict=verdict,
            search=search,
            judged="exact_match" in evaluation.score,
            others=[
                other
                for other in others.exclude(pk=evaluation.pk).order_by("-id")[:50]
                if other.rows_digest == evaluation.rows_digest
            ][:20],
            section="models",
        )


class CompareEvaluations(WorkspacePage):
    """The second against the first, on the same rows."""

    def get(self, request: HttpRequest) -> HttpResponse:
        rows = access.visible(evaluations_with_all(), self.actor)
        comparison, page, problem = None, None, ""
        lines: list[dict[str, Any]] = []
        change = request.GET.get("change", "")
        change = change if change in answers.CHANGES else ""
        try:
            first, second = pair_of(rows, request.GET.getlist("evaluations"))
            compared = comparison = answers.compare(first, second)
            page = sliced(request, lambda offset, limit: compared.some(offset=offset, limit=limit, change=change))
            lines = [
                {**vars(line), "first": for_people(line.first), "second": for_people(line.second)}
                for line in compared.differences
            ]
        except Problem as error:
            if error.status == 404:
                raise
            problem = " ".join(message for messages in error.errors.values() for message in messages) or error.detail
        return self.render(
            "training/compare.html",
            comparison=comparison,
            page=page,
            lines=lines,
            tabs=tabs_of(comparison),
            change=change,
            problem=problem,
            section="models",
            status=400 if problem else 200,
            api=f"{reverse('api-evaluation-list')}compare/?{request.GET.urlencode()}",
        )


def tabs_of(comparison: answers.Comparison | None) -> list[tuple[str, str, int]]:
    """(change, words, rows) of each choice above the rows."""
    if comparison is None:
        return []
    counts = comparison.counts
    kinds = [(name, f"Got {name}" if name != "same" else "The same", counts[name]) for name in answers.CHANGES]
    return [("", "All", len(comparison.pairs)), *kinds]


def as_yaml(config: Mapping[str, Any]) -> str:
    """A stored configuration as a job file."""
    return str(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, default_flow_style=None))
