"""The cap on request bodies, on the whole ASGI application."""

import asyncio
import json
from typing import Any

import pytest

from project.asgi import application

FORM = (b"content-type", b"multipart/form-data; boundary=x")


def ask(path: str, *chunks: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> tuple[int, bytes, int]:
    """Status, body, and how many of the chunks were asked for."""
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []
    taken = 0

    async def receive() -> Any:
        nonlocal taken
        if not waiting:
            await asyncio.sleep(60)
        taken += 1
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "raw_path": b""},
        **{"query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("localhost", 80)},
        "headers": [(b"host", b"localhost"), *headers],
    }
    asyncio.run(application(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], body, taken


@pytest.mark.django_db(transaction=True)
def test_an_announced_body_is_refused_before_a_byte_of_it_is_read(settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 1000
    length = (b"content-length", str(3 * 2**20).encode())
    status, body, taken = ask("/api/v1/datasets/", b"x", headers=(FORM, length))
    assert (status, taken) == (413, 0)
    assert json.loads(body)["title"] == "Too large"
    status, body, _ = ask("/data/new/", b"x", headers=(FORM, length))
    assert status == 413 and b"too large to be taken" in body


@pytest.mark.django_db(transaction=True)
def test_a_body_without_a_length_is_cut_off_where_it_passes_the_cap(settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 1000
    status, _, taken = ask("/api/v1/datasets/", *[b"x" * 2**19] * 20, headers=(FORM,))
    assert (status, taken) == (413, 3)
    status, _, taken = ask("/api/v1/jobs/", *[b"x" * 2**20] * 20, headers=((b"content-type", b"application/json"),))
    assert (status, taken) == (413, 9)


@pytest.mark.django_db(transaction=True)
def test_below_the_cap_the_application_answers(settings: Any) -> None:
    status, _, _ = ask("/api/v1/jobs/", b"{}", headers=((b"content-type", b"application/json"),))
    assert status == 401
