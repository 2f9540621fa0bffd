"""The websocket of a job: what a page hears, and who hears nothing."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.db import database_sync_to_async
from django.utils import timezone

from project.asgi import application
from project.jobs import journal
from project.jobs.actions import jobs
from project.jobs.models import Job, JobEvent
from project.jobs.tests.test_launch import launch
from project.testing import Cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def people(transactional_db: None, cast: Cast) -> Iterator[Cast]:
    yield cast


def cookie(cast: Cast, name: str) -> list[tuple[bytes, bytes]]:
    session = cast.page(name).cookies["sessionid"].value
    return [(b"cookie", f"sessionid={session}".encode()), (b"origin", b"http://localhost"), (b"host", b"localhost")]


class Socket(ApplicationCommunicator):  # type: ignore[misc]
    """A browser's end of a websocket (channels.testing has one, which needs daphne)."""

    def __init__(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        path, _, query = path.partition("?")
        scope = {"type": "websocket", "path": path, "query_string": query.encode(), "headers": headers}
        super().__init__(application, {**scope, "subprotocols": []})

    async def connect(self) -> bool:
        await self.send_input({"type": "websocket.connect"})
        return bool((await self.receive_output(5))["type"] == "websocket.accept")

    async def hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads((await self.receive_output(5))["text"])
        return message


@asynccontextmanager
async def opened(path: str, headers: list[tuple[bytes, bytes]]) -> AsyncIterator[Socket]:
    socket = Socket(path, headers)
    assert await socket.connect()
    try:
        yield socket
    finally:
        await socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await socket.wait(5)


@pytest.fixture
def prepared(people: Cast) -> dict[str, Any]:
    job = launch(people)
    return {name: cookie(people, name) for name in ("viewer", "stranger")} | {
        "job": job,
        "owner": people.actor("owner"),
    }


async def test_a_page_hears_what_was_and_what_comes(prepared: dict[str, Any]) -> None:
    job: Job = prepared["job"]
    async with opened(f"/ws/jobs/{job.pk}/?after=0", prepared["viewer"]) as socket:
        first = await socket.hear()
        assert (first["seq"], first["type"], first["job"]["state"]) == (1, "events", "queued")
        assert [(event["seq"], event["type"]) for event in first["events"]] == [(1, "state")]
        await database_sync_to_async(journal.append)(job, "log", level="info", message="hello")
        second = await socket.hear()
        assert [event["message"] for event in second["events"]] == ["hello"]
        await database_sync_to_async(jobs.cancel)(job, prepared["owner"])
        last = await socket.hear()
        assert last["job"]["state"] == "cancelled"
        assert (await socket.receive_output(5))["code"] == 1000


async def test_a_page_that_slept_gets_only_what_it_missed(prepared: dict[str, Any]) -> None:
    job: Job = prepared["job"]
    for number in range(3):
        await database_sync_to_async(journal.append)(job, "log", level="info", message=str(number))
    async with opened(f"/ws/jobs/{job.pk}/?after=2", prepared["viewer"]) as socket:
        frame = await socket.hear()
        assert [event["seq"] for event in frame["events"]] == [3, 4]


@pytest.mark.full
async def test_a_page_that_slept_for_days_hears_the_newest_in_one_frame(prepared: dict[str, Any]) -> None:
    job: Job = prepared["job"]
    await database_sync_to_async(fill)(job, 100_000)
    async with opened(f"/ws/jobs/{job.pk}/?after=1", prepared["viewer"]) as socket:
        frame = await socket.hear()
        assert (frame["seq"], frame["skipped"]) == (100_001, True)
        assert {event["type"] for event in frame["events"]} == {"progress", "metrics", "log"}
        assert len(frame["events"]) <= 202
        assert [event["seq"] for event in frame["events"]] == sorted(event["seq"] for event in frame["events"])
        assert max(event["seq"] for event in frame["events"]) == 100_001
        await database_sync_to_async(job.refresh_from_db)()
        await database_sync_to_async(journal.append)(job, "log", level="info", message="next")
        following = await socket.hear()
        assert [event["seq"] for event in following["events"]] == [100_002]
        assert following["skipped"] is False


def fill(job: Job, count: int) -> None:
    """That many events more: mostly numbers, now and then a line of the log."""
    now = timezone.now()
    kinds = ("progress", "metrics", "metrics", "metrics", "log")
    JobEvent.objects.bulk_create(
        (
            JobEvent(job=job, seq=1 + number, attempt=1, line=number, type=kinds[number % 5], at=now, body={})
            for number in range(1, count + 1)
        ),
        batch_size=5000,
    )
    Job.objects.filter(pk=job.pk).update(last_seq=1 + count)


@pytest.mark.parametrize("who", ["stranger", "nobody"])
async def test_a_stranger_is_sent_away_without_a_word(prepared: dict[str, Any], who: str) -> None:
    headers = prepared.get(who, [(b"origin", b"http://localhost"), (b"host", b"localhost")])
    async with opened(f"/ws/jobs/{prepared['job'].pk}/", headers) as socket:
        assert await socket.receive_output(5) == {"type": "websocket.close", "code": 4404}


async def test_another_sites_page_can_not_connect(prepared: dict[str, Any]) -> None:
    headers = [
        (b"origin", b"https://evil.example") if name == b"origin" else (name, value)
        for name, value in prepared["viewer"]
    ]
    assert not await Socket(f"/ws/jobs/{prepared['job'].pk}/", headers).connect()


async def test_frames_come_at_most_four_times_per_second(prepared: dict[str, Any]) -> None:
    job: Job = prepared["job"]
    async with opened(f"/ws/jobs/{job.pk}/?after=1", prepared["viewer"]) as socket:
        await socket.hear()
        for number in range(30):
            await database_sync_to_async(journal.append)(job, "log", level="info", message=str(number))
        frames = [await socket.hear()]
        while frames[-1]["seq"] < 31:
            frames.append(await socket.hear())
        assert sum(len(frame["events"]) for frame in frames) == 30
        assert len(frames) <= 6
