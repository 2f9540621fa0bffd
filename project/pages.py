"""The home page: it sees all apps, so it belongs to none of them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Avg, Count, Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from abtests.models import ABTest, Answer, Feedback
from abtests.models import TestState as State
from datasets_app.models import Dataset
from project.jobs.models import Job
from project.kernel import access
from project.kernel.pages import WorkspacePage
from registry.models import ModelVersion, RegisteredModel, Stage
from training.models import FineTune

ACTIVE = ("running", "pausing", "queued")


@dataclass(frozen=True)
class Step:
    """One step of a newcomer's way."""

    title: str
    text: str
    done: bool
    href: str
    action: str


class Home(WorkspacePage):
    """What runs, what answers, how it is liked; for a new workspace, what to do next."""

    def get(self, request: HttpRequest) -> HttpResponse:
        jobs = access.visible(Job.objects.all(), self.actor)
        live = (
            access.visible(ModelVersion.objects.filter(stage=Stage.PRODUCTION), self.actor)
            .select_related("model", "base__model")
            .prefetch_related("scores", "deployments")
            .order_by("model__name")
        )
        steps = self.steps()
        return self.render(
            "home.html",
            steps=steps,
            next_step=next((step for step in steps if not step.done), None),
            active=jobs.filter(state__in=ACTIVE).order_by("state", "-priority", "created_at")[:8],
            recent=jobs.exclude(state__in=(*ACTIVE, "draft")).order_by("-finished_at")[:6],
            live=live[:8],
            tests=access.visible(ABTest.objects.filter(state=State.RUNNING), self.actor).select_related("model")[:5],
            **self.numbers(),
        )

    def numbers(self) -> dict[str, Any]:
        """The last 24 hours of answers and the last 30 days of ratings."""
        now = timezone.now()
        answers = access.visible(Answer.objects.filter(created_at__gte=now - timedelta(days=1)), self.actor)
        ratings = access.visible(Feedback.objects.filter(updated_at__gte=now - timedelta(days=30)), self.actor)
        return {
            "running": access.visible(Job.objects.filter(state__in=ACTIVE), self.actor).count(),
            **answers.aggregate(answers=Count("pk"), errors=Count("pk", filter=~Q(error=""))),
            **ratings.aggregate(rating=Avg("rating"), rated=Count("pk")),
        }

    def steps(self) -> list[Step]:
        def some(queryset: object) -> bool:
            return bool(access.visible(queryset, self.actor).exists())  # type: ignore[type-var, arg-type]

        return [
            Step(
                "Bring a base model",
                "A small one comes along; others from a folder or a hub.",
                some(RegisteredModel.objects.all()),
                reverse("model-import"),
                "Import a model",
            ),
            Step(
                "Bring your data",
                "Conversations or question and answer pairs, as JSONL, JSON or CSV.",
                some(Dataset.objects.all()),
                reverse("datasets"),
                "Import data",
            ),
            Step(
                "Fine-tune",
                "Sensible settings are filled in; watch it learn, live.",
                some(FineTune.objects.all()),
                reverse("training-new"),
                "Start a fine-tune",
            ),
            Step(
                "Evaluate, promote and serve",
                "A version goes to production once its scores are known.",
                access.visible(
                    ModelVersion.objects.filter(stage=Stage.PRODUCTION, origin="training"), self.actor
                ).exists(),
                reverse("models"),
                "See the models",
            ),
            Step(
                "Ask it something",
                "In the playground, or with the OpenAI SDK your application has already.",
                some(Answer.objects.all()),
                reverse("playground"),
                "Open the playground",
            ),
        ]
