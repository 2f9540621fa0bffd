"""The list of jobs, and the page of one: complete without JavaScript, live with it."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, reverse

from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES
from project.jobs import charts, checkpoints, logs, story, subjects
from project.jobs.actions import jobs
from project.jobs.expecting import expected_start
from project.jobs.forms import JobFilter
from project.jobs.models import Job, JobState, Worker
from project.kernel import access
from project.kernel.errors import NotFound, invalid
from project.kernel.pages import WorkspacePage

LOG_LINES = 300
SAMPLES = 5


class Jobs(WorkspacePage):
    """Everything that runs, waits or has ended here."""

    def get(self, request: HttpRequest) -> HttpResponse:
        mine = access.visible(Job.objects.all(), self.actor)
        names = mine.order_by().values_list("recipe", flat=True).distinct()
        form = JobFilter(request.GET, recipes=sorted((name, recipe_label(name)) for name in names))
        rows = mine.order_by("-id")
        if form.is_valid():
            wanted = form.cleaned_data
            rows = rows.filter(**{name: wanted[name] for name in ("state", "recipe") if wanted[name]})
            if wanted["search"]:
                rows = rows.filter(Q(title__icontains=wanted["search"]) | Q(created_by__icontains=wanted["search"]))
        page = self.paged(rows)
        moving = any(not job.is_terminal for job in page)
        return self.render(
            "jobs/list.html",
            page=page,
            form=form,
            filtered=any(request.GET.get(name) for name in form.fields),
            moving=moving,
            idle_queues=queues_without_worker(self.actor.workspace) if moving else [],
        )


class JobPage(WorkspacePage):
    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        job = access.find(Job.objects.select_related("retry_of", "artifact"), self.actor, pk=pk)
        waits = job.state == JobState.QUEUED
        drawn = charts_of(job)
        return self.render(
            "jobs/job.html",
            job=job,
            attempts=list(job.attempts.order_by("-number")),
            charts=drawn,
            trains=any("loss" in chart.keys.split(",") for chart in drawn),
            log_lines=log_lines(job),
            output=logs.part(job, limit=logs.TAIL // 4),
            told=story.tell(job),
            checkpoints=list(checkpoints.of(job)[:20]),
            resumptions=story.resumptions(job),
            samples=list(job.events.filter(type="sample").order_by("-seq")[:SAMPLES]),
            evidence="\n".join(job.failure_lines),
            failure_sentence=story.failure_sentence(job),
            parameters=list(flat(job.params)),
            about=subjects.of(job),
            made=made_by(job),
            retries=list(job.retries.order_by("-id")[:5]),
            position=job.position() if waits else None,
            expected_start=expected_start(job) if waits else None,
            remedies=jobs.remedies(job),
            idle=waits and job.queue in queues_without_worker(self.actor.workspace),
            may_cancel=job.can_cancel and jobs.may_cancel(job, self.actor),
            may_stop=jobs.may_cancel(job, self.actor),
        )


class JobLog(WorkspacePage):
    """The whole log of a try, as text."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponse:
        job = access.find(Job.objects.all(), self.actor, pk=pk)
        attempt = request.GET.get("attempt", "")
        number = int(attempt) if attempt.isdecimal() and len(attempt) < 9 else None
        part = logs.part(job, attempt=number, offset=0, limit=64 * 1024**2)
        if part is None:
            raise NotFound("There is no such try, so it has no log.")
        return HttpResponse(part.text, content_type="text/plain; charset=utf-8")


class JobVerb(WorkspacePage):
    """The buttons."""

    def post(self, request: HttpRequest, pk: UUID, verb: str) -> HttpResponse:
        job = access.find(Job.objects.all(), self.actor, pk=pk)
        if verb == "retry":
            made: list[Job] = []
            remedy, step = request.POST.get("remedy", ""), request.POST.get("from_step", "")
            again = partial(jobs.retry, job, self.actor, remedy=remedy)
            if self.attempt(lambda: made.append(again(from_checkpoint=_step(step))), "Queued as a new job."):
                job = made[0]
        elif verb == "pause":
            waiting = "It pauses after its present step." if job.is_active else "Paused."
            self.attempt(lambda: jobs.pause(job, by=self.actor), waiting)
        elif verb == "resume":
            self.attempt(lambda: jobs.resume(job, by=self.actor), "It goes on.")
        elif verb == "cancel":
            waiting = "It stops after its present step." if job.is_active else "Cancelled."
            self.attempt(lambda: jobs.cancel(job, by=self.actor), waiting)
        elif verb == "start":
            self.attempt(lambda: jobs.start(job, by=self.actor), "Queued.")
        else:
            raise NotFound("There is no page at this address.")
        return redirect("job", job.pk)


def _step(text: str) -> int | Literal[False]:
    """The step of a checkpoint, as a form says it; False where it says none."""
    if not text:
        return False
    if not text.isdecimal() or len(text) > 18:
        raise invalid("from_checkpoint", f"'{text[:40]}' is no step. Choose a checkpoint of the list.")
    return int(text)


def recipe_label(name: str) -> str:
    try:
        return RECIPES.get(name).label
    except UnknownPlugin:
        return name


def queues_without_worker(workspace: Any) -> list[str]:
    """Queues in which jobs of this workspace wait although no living worker looks there."""
    waiting = Job.objects.filter(workspace=workspace, state=JobState.QUEUED).order_by()
    queues = set(waiting.values_list("queue", flat=True).distinct())
    if not queues:
        return []
    alive = Worker.objects.filter(heartbeat_at__gt=Now() - timedelta(seconds=3 * settings.JOB_BEAT), draining=False)
    served = {queue for worker in alive for queue in worker.queues}
    return sorted(queues - served)


@dataclass(frozen=True)
class Chart:
    title: str
    keys: str
    labels: str
    unit: str = ""


def charts_of(job: Job) -> list[Chart]:
    """What the recipe wants drawn (`charts = ((title, keys, labels), …)`), else every loss there is."""
    try:
        wanted = getattr(RECIPES.get(job.recipe), "charts", None)
    except UnknownPlugin:
        wanted = None
    if wanted is None:
        losses = [key for key in charts.keys_of(job) if "loss" in key]
        wanted = [("Loss", ",".join(losses), ",".join(losses))] if losses else []
    return [Chart(*each) for each in wanted]


def log_lines(job: Job) -> list[Any]:
    return list(reversed(job.events.filter(type="log").order_by("-seq")[:LOG_LINES]))


@dataclass(frozen=True)
class Made:
    """Something a finished job made, and where it is."""

    label: str
    url: str
    icon: str


_MADE = (
    ("model_version", "Model version", "models"),
    ("dataset_version", "Data set version", "data"),
    ("evaluation", "Evaluation", "chart"),
)


def made_by(job: Job) -> list[Made]:
    """Links to what the result names by id (`{"model_version": id}`), where there is a page for it."""
    found = []
    for key, label, icon in _MADE:
        if job.result.get(key):
            try:
                found.append(Made(label, reverse(key.replace("_", "-"), args=[job.result[key]]), icon))
            except NoReverseMatch:
                continue
    return found


def flat(value: Any, name: str = "") -> Any:
    """Nested parameters as (dotted name, value); long texts are cut."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        text = "–" if value is None else str(value)
        yield name, text if len(text) <= 200 else text[:200] + "…"
