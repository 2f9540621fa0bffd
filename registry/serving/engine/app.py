"""The engine's HTTP side, plain ASGI: OpenAI's chat completions, the adapters, and its health."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

from project.contracts.runs import UserError
from project.modeling.render import TemplateError
from registry.serving.engine.asgi import Receive, Scope, Send, disconnected, read_body, reply
from registry.serving.engine.decoder import Broken, Decoder, Finished, Output, Piece, Row
from registry.serving.engine.sampling import Sampling
from registry.serving.engine.wire import (
    END_OF_STREAM,
    Answering,
    ApiError,
    ChatRequest,
    parse_chat,
    sse,
)

MAX_BODY = 8 * 1024 * 1024  # bytes
LONG_TEXT = 20_000  # characters; tokenising more would hold up everybody's stream
STUCK_AFTER = 300.0  # seconds in one step, after which the engine calls itself unhealthy


class EngineApp:
    """Every request carries `Authorization: Bearer <secret>`.

    `x-answer-id` sets the id of the answer and `x-model-name` the model's name in it, so that a gateway can pass on
    the bytes as they are.
    """

    def __init__(self, decoder: Decoder, secret: str) -> None:
        self._decoder = decoder
        self._expected = f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        try:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
                raise ApiError(401, "This engine needs its own secret.", code="invalid_api_key")
            await self._route(scope, headers, receive, send)
        except ApiError as error:
            await reply(send, error.status, error.body(), error.headers)

    async def _route(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        name = path.removeprefix("/adapters/")
        match method:
            case "GET" if path == "/health":
                await self._health(send)
            case "GET" if path == "/adapters":
                await reply(send, 200, json.dumps({"adapters": self._decoder.adapters()}).encode())
            case "PUT" if path != name and name:
                await self._add_adapter(name, await read_body(receive, MAX_BODY), send)
            case "DELETE" if path != name and name:
                self._decoder.remove_adapter(name)
                await reply(send, 204, b"")
            case "POST" if path == "/v1/chat/completions":
                await self._chat(headers, receive, send)
            case _:
                raise ApiError(404, f"There is no {method} {path} here.", code="unknown_url")

    async def _health(self, send: Send) -> None:
        decoder = self._decoder
        stuck = decoder.seconds_in_step > STUCK_AFTER
        body = {
            "status": "ok" if decoder.alive and not stuck else "stuck" if stuck else "failed",
            "adapters": decoder.adapters(),
            "active": decoder.active,
            "waiting": decoder.waiting,
            **asdict(decoder.counts),
        }
        await reply(send, 200 if body["status"] == "ok" else 503, json.dumps(body).encode())

    async def _add_adapter(self, name: str, body: bytes, send: Send) -> None:
        try:
            path = Path(json.loads(body)["path"])
        except (ValueError, KeyError, TypeError):
            raise ApiError(400, 'The body must be {"path": "/folder/of/the/adapter"}.', param="path") from None
        try:
            await asyncio.wrap_future(self._decoder.add_adapter(name, path))
        except UserError as error:
            raise ApiError(
                400, f"{error} {error.hint}".strip(), param=error.field or None, code="bad_adapter"
            ) from None
        await reply(send, 200, json.dumps({"adapters": self._decoder.adapters()}).encode())

    async def _chat(self, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        request = parse_chat(await read_body(receive, MAX_BODY))
        outputs, row = await self._submit(request)
        answering = Answering(
            id=headers.get(b"x-answer-id", b"").decode("latin-1") or f"chatcmpl-{uuid.uuid4().hex}",
            model=headers.get(b"x-model-name", b"").decode("latin-1") or request.model,
            created=int(time.time()),
        )
        gone = asyncio.create_task(disconnected(receive))
        try:
            if request.stream:
                await _stream(answering, request, _until(outputs, gone), send)
            else:
                await _whole(answering, _until(outputs, gone), send)
        finally:
            row.cancelled = True  # no effect once it is done
            gone.cancel()

    async def _submit(self, request: ChatRequest) -> tuple["asyncio.Queue[Output]", Row]:
        voice = self._decoder.voice(request.model)
        messages = [message.plain() for message in request.messages]
        try:
            if sum(len(message.content) for message in messages) < LONG_TEXT:
                prompt = voice.prompt(messages)
            else:
                prompt = await asyncio.to_thread(voice.prompt, messages)
        except TemplateError as error:
            raise ApiError(400, f"{error} {error.hint}".strip(), param="messages", code="invalid_messages") from None
        outputs: asyncio.Queue[Output] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(output: Output) -> None:
            loop.call_soon_threadsafe(outputs.put_nowait, output)

        row = self._decoder.submit(
            voice,
            prompt,
            limit=request.limit,
            sampling=Sampling(
                temperature=1.0 if request.temperature is None else request.temperature,
                top_p=1.0 if request.top_p is None else request.top_p,
                frequency_penalty=request.frequency_penalty or 0.0,
                presence_penalty=request.presence_penalty or 0.0,
                seed=request.seed,
            ),
            stops=request.stops,
            send=deliver,
        )
        return outputs, row


async def _whole(answering: Answering, outputs: AsyncIterator[Output], send: Send) -> None:
    text: list[str] = []
    async for output in outputs:
        match output:
            case Piece():
                text.append(output.text)
            case Finished():
                await reply(send, 200, answering.completion("".join(text), output.reason, output.usage))
            case Broken():
                raise output.error


async def _stream(answering: Answering, request: ChatRequest, outputs: AsyncIterator[Output], send: Send) -> None:
    """Server-sent events; the status is only sent with the first output, so that an early failure has its own."""
    opened = False
    async for output in outputs:
        if not opened and isinstance(output, Broken):
            raise output.error
        if not opened:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _more(send, answering.opening())
            opened = True
        match output:
            case Piece():
                await _more(send, answering.piece(output.text))
            case Finished():
                await _more(send, answering.ending(output.reason))
                if request.wants_usage:
                    await _more(send, answering.usage(output.usage))
                await _more(send, END_OF_STREAM, last=True)
            case Broken():
                await _more(send, sse(output.error.body()), last=True)


async def _until(outputs: "asyncio.Queue[Output]", gone: "asyncio.Task[None]") -> AsyncIterator[Output]:
    """The outputs of one answer, up to its end or until the asker hangs up."""
    while True:
        item = asyncio.ensure_future(outputs.get())
        await asyncio.wait({item, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not item.done():
            item.cancel()
            return
        output = item.result()
        yield output
        if isinstance(output, Finished | Broken):
            return


async def _more(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})
