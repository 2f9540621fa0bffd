"""`/api/v1/answers/`, `feedback/`, `ab-tests/`."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from abtests import reading
from abtests.actions import abtests, feedback
from abtests.api import serializers as shapes
from abtests.api.filters import ABTestFilter, AnswerFilter, FeedbackFilter
from abtests.counting import arms, opinions
from abtests.models import ABTest, Answer, Feedback
from project.kernel.api.base import WorkspaceViewSet


class AnswerViewSet(WorkspaceViewSet):
    """Every answer the models of this workspace gave."""

    queryset = Answer.objects.select_related("model", "version__model")
    serializer_class = shapes.AnswerSerializer
    read_verb = "answer.read"
    filterset_class = AnswerFilter
    search_fields = ("text", "id")
    ordering_fields = ["created_at", "latency_ms", "completion_tokens"]

    def get_queryset(self) -> Any:
        rows = super().get_queryset()
        if self.action == "retrieve":
            return rows.prefetch_related("feedback")
        return rows

    @extend_schema(responses=shapes.WholeAnswer)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self.reply(self.get_object(), serializer=shapes.WholeAnswer)


class FeedbackViewSet(WorkspaceViewSet):
    """What people think of answers. One vote per person and answer; voting again edits it and keeps what it said."""

    queryset = Feedback.objects.select_related("answer__version__model").defer("answer__messages", "answer__text")
    serializer_class = shapes.FeedbackSerializer
    read_verb = "feedback.read"
    filterset_class = FeedbackFilter
    search_fields = ("comment", "corrected_text")
    ordering_fields = ["created_at", "updated_at", "rating"]

    @extend_schema(
        request=shapes.NewFeedback, responses={201: shapes.FeedbackSerializer, 200: shapes.FeedbackSerializer}
    )
    def create(self, request: Request) -> Response:
        """Vote on an answer by its id: 201 for a new vote, 200 for a changed one."""
        body = self.read_body(shapes.NewFeedback)
        vote = feedback.give(body.pop("response_id"), by=self.actor, source="api", **body)
        return self.reply(vote, created=vote.is_new)

    @extend_schema(responses=shapes.FeedbackWithHistory)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self.reply(self.get_object(), serializer=shapes.FeedbackWithHistory)

    @extend_schema(responses=shapes.FeedbackStatisticsSerializer)
    @action(detail=False, methods=["get"])
    def stats(self, request: Request) -> Response:
        """Counts per version, day and type; the filters of the list apply."""
        return Response(opinions.statistics(self.filter_queryset(self.get_queryset())).as_dict())


class ABTestViewSet(WorkspaceViewSet):
    """Tests of one version against another on real traffic."""

    queryset = ABTest.objects.select_related("model").prefetch_related(
        "variants__version__model", "variants__deployment"
    )
    serializer_class = shapes.ABTestSerializer
    read_verb = "abtest.read"
    filterset_class = ABTestFilter
    search_fields = ("name", "description", "model__name")
    ordering_fields = ["created_at", "started_at", "name"]

    @extend_schema(request=shapes.NewABTest, responses={201: shapes.ABTestSerializer})
    def create(self, request: Request) -> Response:
        """A draft. Its versions are deployed, so that it can be started once they are healthy."""
        body = self.read_body(shapes.NewABTest)
        shares = [abtests.Share(**share) for share in body.pop("variants")]
        return self.reply(self._fresh(abtests.create(variants=shares, by=self.actor, **body)), created=True)

    @extend_schema(request=shapes.ABTestChange, responses=shapes.ABTestSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a test. Variants, shares and metrics only while it is a draft."""
        body = self.read_body(shapes.ABTestChange)
        if "variants" in body:
            body["variants"] = [abtests.Share(**share) for share in body["variants"]]
        return self.reply(self._fresh(abtests.edit(self.get_object(), by=self.actor, **body)))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Delete a draft, or a stopped test nobody took part in."""
        abtests.delete(self.get_object(), by=self.actor)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=shapes.ABTestSerializer)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        """Start, or go on after a pause: the variants take over the model's route."""
        return self.reply(self._fresh(abtests.start(self.get_object(), by=self.actor)))

    @extend_schema(request=None, responses=shapes.ABTestSerializer)
    @action(detail=True, methods=["post"])
    def pause(self, request: Request, pk: str) -> Response:
        """Give the route back to production; nothing is counted until it is started again."""
        return self.reply(self._fresh(abtests.pause(self.get_object(), by=self.actor)))

    @extend_schema(request=shapes.StopABTest, responses=shapes.ABTestSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        """End it for good; `winner` notes what was decided."""
        body = self.read_body(shapes.StopABTest)
        return self.reply(self._fresh(abtests.stop(self.get_object(), by=self.actor, **body)))

    @extend_schema(responses=shapes.ResultsSerializer)
    @action(detail=True, methods=["get"])
    def results(self, request: Request, pk: str) -> Response:
        """What was counted until now, in whatever state the test is."""
        test = self.get_object()
        results = arms.count(test)
        head = {"state": test.state, "started_at": test.started_at, "stopped_at": test.stopped_at}
        body = {**head, **results.as_dict(), "note": reading.caution(results)}
        return Response(shapes.ResultsSerializer(body).data)

    def _fresh(self, test: ABTest) -> ABTest:
        """The test with its variants as they are now."""
        return self.get_queryset().get(pk=test.pk)  # type: ignore[no-any-return]
