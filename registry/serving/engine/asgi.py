"""The few things plain ASGI applications need. Imports no model library: the gateway uses it too."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from registry.serving.engine.wire import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises ApiError 413 beyond `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "The body did not arrive.", code="incomplete_body")
        body += message.get("body", b"")
        if len(body) > limit:
            raise ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")
        if not message.get("more_body"):
            return bytes(body)


async def reply(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """A whole JSON response."""
    pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    pairs += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def disconnected(receive: Receive) -> None:
    """Wait until the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        continue
