"""A person asks a deployed version directly, without tokens and routes, and the answer is kept like any other.

The answer comes from the deployment's own engine. It never counts for an A/B test: whoever chooses the version was not
assigned to it.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
from asgiref.sync import async_to_sync, sync_to_async
from django.db.models import QuerySet

from abtests.gateway.stream import Tap
from abtests.identity import voter
from abtests.models import Source
from abtests.traffic import AnswerRecord, record_answers
from project.kernel import access
from project.kernel.access import Actor
from project.kernel.errors import Invalid, NotReady, invalid
from registry.models import Deployment, DeploymentState, EngineState

CONNECT = 5.0  # seconds to reach an engine
SILENCE = 300.0  # seconds an engine may say nothing: others may be waiting before us
MAX_TURNS = 200
MAX_TEXT = 400_000  # characters of a whole conversation
END = b"data: [DONE]\n\n"

Turn = dict[str, str]


@dataclass(frozen=True)
class Question:
    """A conversation whose last turn is the person's, and who should answer it."""

    deployment: Deployment
    messages: list[Turn]
    temperature: float
    max_tokens: int
    by: Actor

    @property
    def params(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "max_tokens": self.max_tokens}


@dataclass(frozen=True)
class Reply:
    """What came back. `error` is empty when all went well."""

    id: str
    text: str
    finish_reason: str
    error: str


def deployments(by: Actor) -> QuerySet[Deployment]:
    """What can be asked: healthy deployments, those in production first, newest version first."""
    rows = Deployment.objects.filter(wanted=True, state=DeploymentState.HEALTHY, engine__state=EngineState.READY)
    return (
        access.visible(rows, by)
        .select_related("version__model", "version__base__model", "engine")
        .order_by("version__model__name", "-version__number")
    )


def question(*, version_id: str, messages: list[Turn], temperature: float, max_tokens: int, by: Actor) -> Question:
    """Check who is asked, and what. Raises Invalid naming the field, NotReady when the version is not served now."""
    access.require(by, "playground.chat", by.workspace)
    deployment = next((row for row in deployments(by) if str(row.version_id) == version_id), None)
    if deployment is None or deployment.engine is None or not deployment.engine.is_alive():
        raise NotReady("This version is not served at the moment. Choose another, or deploy it first.")
    return Question(deployment, _conversation(messages), temperature, max_tokens, by)


def _conversation(messages: Any) -> list[Turn]:
    if not isinstance(messages, list) or not messages or len(messages) > MAX_TURNS:
        raise invalid("messages", f"Send 1 to {MAX_TURNS} turns.")
    for turn in messages:
        if (
            not isinstance(turn, dict)
            or turn.get("role") not in ("system", "user", "assistant")
            or not isinstance(turn.get("content"), str)
        ):
            raise invalid("messages", "Each turn needs a role (system, user or assistant) and a text as its content.")
    if sum(len(turn["content"]) for turn in messages) > MAX_TEXT:
        raise invalid("messages", f"The conversation is longer than {MAX_TEXT:,} characters. Start a new one.")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise Invalid(errors={"prompt": ["Ask something."]})
    return [{"role": turn["role"], "content": turn["content"]} for turn in messages]


def new_answer_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


async def stream(asked: Question, answer_id: str) -> AsyncGenerator[bytes]:
    """The answer as server-sent events of OpenAI's chunks, as they come; `event: error` when something goes wrong.

    The row is written before the last event, so that feedback by id always finds its answer. If the reader goes away,
    what had been said is kept.
    """
    tap = Tap(wants_usage=True)
    began = time.monotonic()
    first: float | None = None
    try:
        async with aclosing(_upstream(asked, answer_id)) as chunks:
            async for data in chunks:
                passed = tap.feed(data)
                if first is None and tap.has_text:
                    first = (time.monotonic() - began) * 1000
                if passed:
                    yield passed
        if not tap.is_over and not tap.heard.error:
            tap.heard.error = "The engine broke off in the middle of the answer."
    except _Refused as refusal:
        yield _error(str(refusal))  # about the question itself: nothing was answered
        return
    except httpx.HTTPError as error:
        tap.heard.error = f"The engine could not be reached: {type(error).__name__}."
    except BaseException:  # the reader is gone (cancelled or closed)
        if tap.heard.text:
            tap.heard.finish_reason = tap.heard.finish_reason or "cancelled"
            await _keep(asked, answer_id, tap, began, first)
        raise
    await _keep(asked, answer_id, tap, began, first)
    yield _error(tap.heard.error) if tap.heard.error else END


class _Refused(Exception):
    """The engine does not answer this; its words say why."""


async def _upstream(asked: Question, answer_id: str) -> AsyncGenerator[bytes]:
    engine = asked.deployment.engine
    assert engine is not None  # noqa: S101  (question() saw to it)
    body = {
        "model": asked.deployment.engine_model,
        "messages": asked.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **asked.params,
    }
    headers = {
        "authorization": f"Bearer {engine.secret}",
        "x-answer-id": answer_id,
        "x-model-name": asked.deployment.version.reference,
    }
    timeout = httpx.Timeout(SILENCE, connect=CONNECT)
    async with (
        httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
        client.stream("POST", f"{engine.url}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        if response.status_code != 200:
            raise _Refused(_reason(response.status_code, await response.aread()))
        async for data in response.aiter_raw():
            yield data


def _reason(status: int, content: bytes) -> str:
    if status in (401, 403, 404):  # the engine was restarted, or has not loaded this version yet
        return "This version is being started. Try again in a moment."
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The engine answered {status}."


def _error(message: str) -> bytes:
    return b"event: error\ndata: " + json.dumps({"message": message}).encode() + b"\n\n"


async def _keep(asked: Question, answer_id: str, tap: Tap, began: float, first: float | None) -> None:
    version = asked.deployment.version
    record = AnswerRecord(
        id=answer_id,
        workspace_id=asked.by.workspace.pk,
        model_id=version.model_id,
        version_id=version.pk,
        deployment_id=asked.deployment.pk,
        unit_hash=voter(asked.by),
        token_label=asked.by.label,
        source=Source.PLAYGROUND,
        messages=asked.messages,
        text="".join(tap.heard.text),
        params=asked.params,
        prompt_tokens=tap.heard.prompt_tokens,
        completion_tokens=tap.heard.completion_tokens,
        latency_ms=(time.monotonic() - began) * 1000,
        first_token_ms=first,
        finish_reason=tap.heard.finish_reason,
        error=tap.heard.error,
    )
    await sync_to_async(record_answers)([record])


def ask(asked: Question) -> Reply:
    """The whole answer at once, for browsers without JavaScript."""
    return async_to_sync(_whole)(asked)


async def _whole(asked: Question) -> Reply:
    tap, error, answer_id = Tap(wants_usage=True), "", new_answer_id()
    async for data in stream(asked, answer_id):
        if data.startswith(b"event: error\n"):
            error = json.loads(data.partition(b"data: ")[2])["message"]
        else:
            tap.feed(data)
    return Reply(answer_id, "".join(tap.heard.text), tap.heard.finish_reason, error)
