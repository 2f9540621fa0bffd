"""A cap on request bodies in front of Django, which writes a whole body to disk before any view can refuse it."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string

from project.kernel.api.problems import CONTENT_TYPE, document
from project.kernel.errors import TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

FORM = 2**20  # bytes of a form around its file: field names, boundaries, small fields


class _Exceeded(Exception):
    """More bytes came than may."""


class BodyLimit:
    """Answers 413 for a body over the cap: at once where its length is announced, else as soon as too much came.

    Forms may hold a file of MAX_UPLOAD_BYTES; every other body ends at DATA_UPLOAD_MAX_MEMORY_SIZE.
    """

    def __init__(self, application: Asgi) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = _limit(headers.get(b"content-type", b""))
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            await _refuse(scope, limit, send)
            return
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit:
                raise _Exceeded
            return message

        try:
            await self._application(scope, counted, send)
        except _Exceeded:  # Django reads the body before it answers, so nothing was sent yet
            await _refuse(scope, limit, send)


def _limit(content_type: bytes) -> int:
    if content_type.lower().startswith(b"multipart/form-data"):
        return int(settings.MAX_UPLOAD_BYTES) + FORM
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


async def _refuse(scope: Scope, limit: int, send: Send) -> None:
    message = f"The request is larger than the {limit:,} bytes that are taken."
    if scope["path"].startswith("/api/"):
        body = json.dumps(document(TooLarge.status, TooLarge.title, message)).encode()
        kind = CONTENT_TYPE
    else:
        body = render_to_string("errors/413.html", {"reason": message}).encode()
        kind = "text/html; charset=utf-8"
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": TooLarge.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
