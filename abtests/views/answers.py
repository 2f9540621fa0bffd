"""Answers and what people think of them: the list, one answer to rate, the numbers."""

from datetime import date, timedelta
from typing import Any

from django.contrib import messages
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from abtests.actions import feedback
from abtests.counting import opinions
from abtests.forms import VoteForm
from abtests.identity import voter
from abtests.models import Answer, Feedback, Thumb
from project.kernel import access
from project.kernel.errors import Problem
from project.kernel.pages import WorkspacePage, add_problem
from registry.models import Deployment, ModelVersion

SHOWN = {
    "": "All answers",
    "rated": "With feedback",
    "unrated": "Without feedback",
    "low": "Rated low",
    "corrected": "Corrected",
    "commented": "With a comment",
    "failed": "Failed",
}
PERIODS = {"7": "7 days", "30": "30 days", "90": "90 days", "all": "All time"}
OFFERED = 200  # versions in the filter


def _voted(**lookup: Any) -> Exists:
    return Exists(Feedback.objects.filter(answer=OuterRef("pk"), **lookup))


def _narrowed(rows: QuerySet[Answer], shown: str) -> QuerySet[Answer]:
    match shown:
        case "rated":
            return rows.filter(_voted())
        case "unrated":
            return rows.filter(~_voted())
        case "low":
            return rows.filter(_voted(rating__lte=2) | _voted(thumb=Thumb.DOWN))
        case "corrected":
            return rows.filter(_voted(corrected_text__gt=""))
        case "commented":
            return rows.filter(_voted(comment__gt=""))
        case "failed":
            return rows.exclude(error="")
    return rows


class Answers(WorkspacePage):
    """Every answer, newest first, with the feedback it got."""

    def get(self, request: HttpRequest) -> HttpResponse:
        access.require(self.actor, "answer.read", self.actor.workspace)
        asked = request.GET
        deployed = Exists(Deployment.objects.filter(version=OuterRef("pk")))
        versions = access.visible(ModelVersion.objects.filter(deployed), self.actor)
        offered = list(versions.select_related("model").order_by("model__name", "-number")[:OFFERED])
        chosen = next((version for version in offered if str(version.pk) == asked.get("version")), None)
        rows = access.visible(Answer.objects.select_related("model", "version__model").defer("params"), self.actor)
        if chosen:
            rows = rows.filter(version=chosen)
        if words := asked.get("search", "").replace("\0", "").strip():
            rows = rows.filter(Q(text__icontains=words) | Q(id=words))
        rows = _narrowed(rows, asked.get("show", ""))
        votes = Prefetch("feedback", Feedback.objects.order_by("id"))
        return self.render(
            "abtests/feedback.html",
            page=self.paged(rows.prefetch_related(votes), size=25),
            versions=offered,
            chosen=chosen,
            shown=SHOWN,
            filtered=any(asked.get(name) for name in ("search", "version", "show")),
        )


class AnswerPage(WorkspacePage):
    """One answer: read it, rate it, say what it should have been."""

    def get(self, request: HttpRequest, pk: str, form: VoteForm | None = None, status: int = 200) -> HttpResponse:
        access.require(self.actor, "answer.read", self.actor.workspace)
        answers = Answer.objects.select_related("model", "version__model", "test", "deployment")
        answer = access.find(answers, self.actor, pk=pk)
        votes = list(answer.feedback.prefetch_related("edits").order_by("-updated_at"))
        mine = next((vote for vote in votes if vote.user_id_hash == voter(self.actor)), None)
        initial = {name: getattr(mine, name) for name in Feedback.FIELDS} if mine else {}
        types = access.visible(Feedback.objects.exclude(feedback_type=""), self.actor)
        return self.render(
            "abtests/answer.html",
            status=status,
            answer=answer,
            form=form or VoteForm(initial=initial),
            votes=votes,
            mine=mine,
            types=types.order_by().values_list("feedback_type", flat=True).distinct()[:50],
            newer=self._beside(answer, newer=True),
            older=self._beside(answer, newer=False),
        )

    def post(self, request: HttpRequest, pk: str) -> HttpResponse:
        """Save the vote. A page that posts quietly (Accept: application/json) gets JSON back."""
        quietly = "application/json" in request.headers.get("accept", "")
        form = VoteForm(request.POST)
        if form.is_valid():
            source = "playground" if request.POST.get("source") == "playground" else "page"
            try:
                feedback.give(pk, by=self.actor, source=source, **form.opinion())
            except Problem as problem:
                if problem.status == 404 and not quietly:
                    raise
                if quietly:
                    return JsonResponse({"detail": problem.detail, "errors": problem.errors}, status=problem.status)
                add_problem(form, problem)
            else:
                if quietly:
                    return JsonResponse({"detail": "Saved."})
                return redirect(self._after(request, pk))
        if quietly:
            detail = " ".join(str(message) for found in form.errors.values() for message in found)
            return JsonResponse({"detail": detail, "errors": form.errors}, status=400)
        return self.get(request, pk, form, 400)

    def _after(self, request: HttpRequest, pk: str) -> str:
        messages.success(request, "Thank you. Your feedback is saved.")
        if "next" not in request.POST:
            return reverse("answer", args=[pk])
        answer = access.find(Answer.objects.all(), self.actor, pk=pk)
        mine = _voted(user_id_hash=voter(self.actor))
        following = self._older_than(answer).filter(~mine, error="").values_list("pk", flat=True).first()
        return reverse("answer", args=[following]) if following else reverse("feedback")

    def _older_than(self, answer: Answer) -> QuerySet[Answer]:
        rows = access.visible(Answer.objects.filter(created_at__lte=answer.created_at), self.actor)
        return rows.exclude(created_at=answer.created_at, id__gte=answer.pk).order_by("-created_at", "-id")

    def _beside(self, answer: Answer, *, newer: bool) -> str | None:
        if not newer:
            return self._older_than(answer).values_list("pk", flat=True).first()
        rows = access.visible(Answer.objects.filter(created_at__gte=answer.created_at), self.actor)
        rows = rows.exclude(created_at=answer.created_at, id__lte=answer.pk).order_by("created_at", "id")
        return rows.values_list("pk", flat=True).first()


def _every_day(tallies: list[opinions.Tally]) -> list[int]:
    """Votes from the first counted day until today (UTC), days without any included."""
    if not tallies:
        return []
    counted = {tally.label: tally.votes for tally in tallies}
    first, today = date.fromisoformat(tallies[0].label), timezone.now().date()
    days = [first + timedelta(days=number) for number in range((today - first).days + 1)]
    return [counted.get(day.isoformat(), 0) for day in days]


class FeedbackNumbers(WorkspacePage):
    """Votes by version, by type, by day."""

    def get(self, request: HttpRequest) -> HttpResponse:
        access.require(self.actor, "feedback.read", self.actor.workspace)
        period = request.GET.get("period", "30")
        period = period if period in PERIODS else "30"
        since = None if period == "all" else timezone.now() - timedelta(days=int(period))
        stats = opinions.statistics(access.visible(Feedback.objects.all(), self.actor), since=since)
        most = max(stats.histogram.values())
        days = _every_day(stats.days)
        return self.render(
            "abtests/feedback_numbers.html",
            stats=stats,
            stars=[(stars, count, count / most if most else 0) for stars, count in reversed(stats.histogram.items())],
            days=days,
            most=max(days, default=0),
            period=period,
            periods=PERIODS,
        )
