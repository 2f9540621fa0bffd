"""Ask a version yourself. With JavaScript the answer streams in; without, the page comes back with it."""

import json
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse

from abtests import playground
from abtests.forms import PlaygroundForm
from abtests.playground import Question
from project.kernel import access
from project.kernel.errors import NotReady, Problem
from project.kernel.pages import WorkspacePage
from registry.models import Deployment, DeploymentState


class Playground(WorkspacePage):
    def get(self, request: HttpRequest) -> HttpResponse:
        access.require(self.actor, "playground.chat", self.actor.workspace)
        offered = list(playground.deployments(self.actor))
        wanted = request.GET.get("model") or request.GET.get("version", "")
        chosen = next((row for row in offered if wanted in (str(row.version_id), str(row.version), str(row.pk))), None)
        chosen = chosen or next((row for row in offered if row.version.stage == "production"), None)
        initial = {"model": str(chosen.version_id)} if chosen else {}
        return self._page(PlaygroundForm(deployments=offered, initial=initial), offered)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        offered = list(playground.deployments(self.actor))
        form = PlaygroundForm(request.POST, deployments=offered)
        streamed = "text/event-stream" in request.headers.get("accept", "")
        if not offered:
            problem: Problem | None = NotReady("No version is served at the moment. Deploy one first.")
        else:
            asked, problem = self._question(form)
            if asked is not None:
                return _events(asked) if streamed else self._answered(form, offered, asked)
        if streamed:
            detail = problem.detail if problem else _first_error(form)
            return JsonResponse({"detail": detail}, status=problem.status if problem else 400)
        if problem is not None and form.is_bound and form.is_valid():
            form.add_error(None, problem.detail)
        status = problem.status if problem else 400
        turns = getattr(form, "cleaned_data", {}).get("turns", [])
        return self._page(form, offered, status=status, turns=turns, prompt=request.POST.get("prompt", ""))

    def _question(self, form: PlaygroundForm) -> tuple[Question | None, Problem | None]:
        if not form.is_valid():
            return None, None
        data = form.cleaned_data
        try:
            asked = playground.question(
                version_id=data["model"],
                messages=form.conversation(),
                temperature=data["temperature"],
                max_tokens=data["max_tokens"],
                by=self.actor,
            )
        except Problem as problem:
            if problem.status == 403:
                raise
            return None, problem
        return asked, None

    def _answered(self, form: PlaygroundForm, offered: list[Deployment], asked: Question) -> HttpResponse:
        reply = playground.ask(asked)
        shown = [*form.cleaned_data["turns"], {"role": "user", "content": asked.messages[-1]["content"]}]
        if reply.error and not reply.text:  # the question stays in its box, to be sent again
            return self._page(
                form, offered, turns=shown[:-1], failure=reply.error, prompt=shown[-1]["content"], status=502
            )
        shown.append({"role": "assistant", "content": reply.text, "id": reply.id})
        return self._page(form, offered, turns=shown, failure=reply.error, length=reply.finish_reason == "length")

    def _page(
        self, form: PlaygroundForm, offered: list[Deployment], *, status: int = 200, **context: Any
    ) -> HttpResponse:
        loading = Deployment.objects.filter(wanted=True, state__in=(DeploymentState.PENDING, DeploymentState.LOADING))
        turns = context.pop("turns", [])
        return self.render(
            "abtests/playground.html",
            status=status,
            form=form,
            offered=offered,
            turns=turns,
            history=json.dumps(turns),
            loading=access.visible(loading, self.actor).select_related("version__model")[:5],
            **context,
        )


def _events(asked: Question) -> StreamingHttpResponse:
    answer = playground.stream(asked, playground.new_answer_id())
    response = StreamingHttpResponse(answer, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the pieces back
    return response


def _first_error(form: PlaygroundForm) -> str:
    return next((str(message) for messages in form.errors.values() for message in messages), "This can't be sent.")
