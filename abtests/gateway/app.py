"""`/v1/`: what OpenAI clients talk to. Plain ASGI, mounted before Django, because every answer passes through it.

    POST /v1/chat/completions     GET /v1/models     GET /v1/models/{id}

A request's token decides its workspace, its `model` and its end user decide which deployment answers. The answer passes
through as the engine sends it; its row is in the database before the client hears the end, so that feedback by id
always finds it.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx

from abtests.gateway import assign
from abtests.gateway.directory import Directory, unauthorised
from abtests.gateway.recorder import Recorder
from abtests.gateway.snapshot import Arm, Backend, Key, Model, Split
from abtests.gateway.stream import Heard, Tap
from abtests.identity import Kind, keyed_hash
from abtests.traffic import AnswerRecord
from registry.serving.engine.asgi import Receive, Scope, Send, disconnected, read_body, reply
from registry.serving.engine.wire import END_OF_STREAM, ApiError, server_error, sse

log = logging.getLogger(__name__)

MAX_BODY = 4 * 1024 * 1024  # bytes
CONNECT = 5.0  # seconds to reach an engine
SILENCE = 600.0  # seconds an engine may say nothing: a long queue, a long answer in one piece
LOOK = 2.0  # seconds between looks whether the engine is still vouched for
PARAMS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "stream")


@dataclass
class Call:
    """One request for an answer, from its arrival to its row."""

    key: Key
    model: Model
    split: Split
    arm: Arm
    counted: bool
    unit_hash: str
    body: dict[str, Any]
    heard: Heard = field(default_factory=Heard)
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    began: float = field(default_factory=time.monotonic)
    first_token_ms: float | None = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.began) * 1000

    def record(self) -> AnswerRecord:
        return AnswerRecord(
            id=self.id,
            workspace_id=self.key.workspace_id,
            model_id=self.model.id,
            version_id=self.arm.backend.version_id,
            deployment_id=self.arm.backend.deployment_id,
            test_id=self.split.test_id if self.counted else None,
            arm=self.arm.key,
            unit_hash=self.unit_hash,
            token_label=self.key.label,
            messages=self.body.get("messages") or (),
            text="".join(self.heard.text),
            params={name: self.body[name] for name in PARAMS if self.body.get(name) is not None},
            prompt_tokens=self.heard.prompt_tokens,
            completion_tokens=self.heard.completion_tokens,
            latency_ms=self.elapsed_ms(),
            first_token_ms=self.first_token_ms,
            finish_reason=self.heard.finish_reason,
            error=self.heard.error,
        )


class Gateway:
    """The ASGI application. It has its own connections and copies, made with the first request."""

    def __init__(self, directory: Directory | None = None, recorder: Recorder | None = None) -> None:
        self._directory = directory or Directory()
        self._recorder = recorder or Recorder()
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = _WithRequestId(send, headers.get("x-request-id", ""))
        try:
            await self._route(scope, headers, receive, answer)
        except ApiError as error:
            await answer.fail(error)
        except Exception:
            log.exception("a request to %s failed", scope["path"])
            await answer.fail(server_error(500, "The gateway failed on this request.", "internal_error"))

    async def close(self) -> None:
        """When the server stops: write the last rows, let connections go."""
        await self._recorder.close()
        self._directory.close()
        if self._client is not None:
            await self._client.aclose()

    async def _route(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"].rstrip("/")
        if path == "/v1/chat/completions" and method == "POST":
            key = await self._key(headers, "infer")
            await self._chat(key, headers, receive, send)
        elif path == "/v1/models" and method == "GET":
            key = await self._key(headers, "infer", "read")
            models = await self._directory.served(key.workspace_id)
            await reply(send, 200, _json({"object": "list", "data": [_model(model, key) for model in models]}))
        elif path.startswith("/v1/models/") and method == "GET":
            key = await self._key(headers, "infer", "read")
            reference = unquote(path.removeprefix("/v1/models/"))
            model, _ = await self._directory.find(key.workspace_id, reference)
            await reply(send, 200, _json(_model(model, key) | {"id": reference}))
        elif path in ("/v1/chat/completions", "/v1/models") or path.startswith("/v1/models/"):
            allow = "POST" if path == "/v1/chat/completions" else "GET"
            message = f"{path} takes {allow}, not {method}."
            raise ApiError(405, message, code="method_not_allowed", headers={"allow": allow})
        else:
            raise ApiError(404, f"There is no {method} {path} here.", code="unknown_url")

    async def _key(self, headers: dict[str, str], *scopes: str) -> Key:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise unauthorised("Send a token: 'Authorization: Bearer tl-…'.")
        key = await self._directory.key(secret.strip())
        if not key.may(*scopes):
            message = f"This token has no '{scopes[0]}' scope, which this needs."
            raise ApiError(403, message, code="insufficient_permissions", kind="permission_error")
        return key

    # --- chat

    async def _chat(self, key: Key, headers: dict[str, str], receive: Receive, send: Send) -> None:
        body = _parsed(await read_body(receive, MAX_BODY))
        model, split = await self._directory.find(key.workspace_id, body["model"])
        kind, unit = _unit(body, headers, key)
        arm, counted = _choose(split, key, f"{kind}:{unit}")
        unit_hash = keyed_hash(key.hash_key, kind, unit)
        call = Call(key=key, model=model, split=split, arm=arm, counted=counted, unit_hash=unit_hash, body=body)
        answering = asyncio.create_task(self._answer(call, send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await self._abandon(call, answering)
                return
            await answering
        finally:
            gone.cancel()

    async def _abandon(self, call: Call, answering: "asyncio.Task[None]") -> None:
        """The client hung up: let the engine stop, and keep what had been said."""
        answering.cancel()
        await asyncio.wait({answering})
        if not call.heard.finish_reason:
            call.heard.finish_reason = "cancelled"
            await self._recorder.keep(call.record())

    async def _answer(self, call: Call, send: Send) -> None:
        try:
            await self._forward(call, send)
        except httpx.HTTPError as error:
            call.heard.error = f"The engine could not be reached: {type(error).__name__}."
            log.warning("%s on %s: %s", call.model.name, call.arm.backend.url, call.heard.error)
            await self._recorder.keep(call.record())
            raise _unavailable(f"The model '{call.body['model']}' does not answer at the moment.") from error

    async def _forward(self, call: Call, send: Send) -> None:
        backend = call.arm.backend
        if not backend.is_up:
            raise _unavailable(f"The model '{call.body['model']}' is being started. Try again shortly.")
        body = call.body | {"model": backend.engine_model}
        if call.wants_stream:
            body["stream_options"] = {"include_usage": True}
        request = self._http().build_request(
            "POST",
            f"{backend.url}/v1/chat/completions",
            content=_json(body),
            headers={
                "authorization": f"Bearer {backend.secret}",
                "content-type": "application/json",
                "x-answer-id": call.id,
                "x-model-name": _header_safe(call.body["model"]),
            },
        )
        async with self._vouched(call):
            upstream = await self._http().send(request, stream=True)
        try:
            if call.wants_stream and upstream.status_code == 200:
                await self._stream(call, upstream, send)
                return
            async with self._vouched(call):
                content = await upstream.aread()
            if upstream.status_code == 200:
                call.heard.whole(content)
                await self._recorder.keep(call.record())
                await reply(send, 200, content, {"x-answer-id": call.id})
            else:
                await self._refused(call, content, upstream, send)
        finally:
            await upstream.aclose()

    async def _refused(self, call: Call, content: bytes, upstream: httpx.Response, send: Send) -> None:
        """What the engine does not do. Its words go to the client when they are about the request."""
        status = upstream.status_code
        if status in (401, 403, 404):  # between the engine and us: it was restarted, or has not loaded this yet
            raise _unavailable(f"The model '{call.body['model']}' is being started. Try again shortly.")
        if status >= 500:
            call.heard.error = f"The engine answered {status}."
            await self._recorder.keep(call.record())
        retry = upstream.headers.get("retry-after")
        await reply(send, status, content, {"retry-after": retry} if retry else None)

    async def _stream(self, call: Call, upstream: httpx.Response, send: Send) -> None:
        tap = Tap(wants_usage=call.wants_usage)
        call.heard = tap.heard
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would hold the pieces back
            (b"x-answer-id", call.id.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with self._vouched(call):
                async for data in upstream.aiter_raw():
                    passed = tap.feed(data)
                    if call.first_token_ms is None and tap.has_text:
                        call.first_token_ms = call.elapsed_ms()
                    if passed:
                        await send({"type": "http.response.body", "body": passed, "more_body": True})
        except httpx.HTTPError as error:
            log.warning("%s broke off: %s", call.id, error)
        ending = END_OF_STREAM
        if not tap.is_over:
            broken = server_error(503, "The engine broke off in the middle of the answer.", "engine_lost")
            ending = b"" if tap.heard.error else sse(broken.body())
            tap.heard.error = tap.heard.error or broken.message
        await self._recorder.keep(call.record())
        await send({"type": "http.response.body", "body": ending, "more_body": False})

    @asynccontextmanager
    async def _vouched(self, call: Call) -> AsyncIterator[None]:
        """Wait for an engine inside, but not for one whose host has gone silent: a dead host closes no connection.

        Raises httpx.ReadTimeout then.
        """
        try:
            async with asyncio.timeout(None) as limit:
                watch = asyncio.create_task(self._watch(call.arm.backend, limit))
                try:
                    yield
                finally:
                    watch.cancel()
        except TimeoutError:
            raise httpx.ReadTimeout("nobody vouches for the engine any more") from None

    async def _watch(self, backend: Backend, limit: asyncio.Timeout) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._directory.look()
            if not self._directory.vouched(backend.engine_id):
                limit.reschedule(asyncio.get_running_loop().time())
                return

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(SILENCE, connect=CONNECT, pool=CONNECT),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=30),
                trust_env=False,
            )
        return self._client


class _WithRequestId:
    """Adds `x-request-id` to every response: the client's own if it is harmless, else a new one."""

    def __init__(self, send: Send, given: str) -> None:
        self._send = send
        self._id = given if re.fullmatch(r"[\w.-]{1,128}", given, re.ASCII) else f"req_{uuid.uuid4().hex}"
        self._began = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._began = True
            headers = [*message.get("headers", []), (b"x-request-id", self._id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Say what went wrong, unless an answer has begun: then only breaking off tells the client."""
        if not self._began:
            await reply(self, error.status, error.body(), error.headers)


def _parsed(body: bytes) -> dict[str, Any]:
    """Just enough of the request to send it on; the engine checks the rest. Raises ApiError 400."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not JSON.", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    model = content.get("model")
    if not isinstance(model, str) or not model:
        code = "missing_required_parameter" if model is None else "invalid_value"
        raise ApiError(400, "model: name the model that should answer.", param="model", code=code)
    if not isinstance(content.get("messages"), list):
        raise ApiError(400, "messages: a list of messages is needed.", param="messages", code="invalid_value")
    if content.get("stream") not in (None, True, False):
        raise ApiError(400, "stream: must be true or false.", param="stream", code="invalid_value")
    return content


def _unit(body: dict[str, Any], headers: dict[str, str], key: Key) -> tuple[Kind, str]:
    """Whom an A/B test assigns: the end user if the client names one, else the session, else the token."""
    for name in ("safety_identifier", "user"):
        value = body.get(name)
        if isinstance(value, str) and value:
            return "user", value
    session = headers.get("x-session-id", "")
    return ("session", session) if session else ("token", str(key.id))


def _choose(split: Split, key: Key, unit: str) -> tuple[Arm, bool]:
    """The unit's arm, and whether the answer counts for a test: not when that arm is down and another helps out."""
    at = assign.point(key.hash_key, split.salt, unit)
    own = split.arms[assign.choose([arm.weight for arm in split.arms], at)]
    if own.backend.is_up:
        return own, True
    other = next((arm for arm in split.arms if arm.backend.is_up), None)
    return (other, False) if other is not None else (own, True)


def _unavailable(message: str) -> ApiError:
    return server_error(503, message, "model_unavailable", {"retry-after": "1"})


def _model(model: Model, key: Key) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": key.workspace_slug}


def _header_safe(text: str) -> str:
    return text.encode("ascii", "ignore").decode().replace("\r", "").replace("\n", "")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


application = Gateway()
