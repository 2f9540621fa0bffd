"""`/ws/jobs/<id>/?after=<seq>`: what happens to a job, as it happens.

The database is the truth. A message from the channel layer only says that something is new and wakes this at once;
without one (another process, a lost message) the row is looked at twice a second. A page that slept gets everything
since its `after`, in order; one that slept for days gets the newest of what it shows, and asks for the rest anew.
"""

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db import DatabaseError

from project.jobs.api.serializers import event_document
from project.jobs.models import TERMINAL, Job, JobEvent
from project.kernel import access
from project.kernel.errors import Problem
from project.kernel.models import User
from project.kernel.pages import current_actor

NOT_FOUND = 4404  # close code: no such job for whoever asks
BAD_REQUEST = 4400
PAUSE = 0.25  # seconds between two frames: at most four per second
POLL = 0.5  # seconds between two looks at the row while nobody sends hints
POLL_HINTED = 5.0  # and once hints arrive
RECHECK = 60.0  # seconds after which the right to see the job is asked again
MOST_PER_FRAME = 500
MOST_BEHIND = 2000  # events: a page that missed more is told so instead of hearing all of them
NEWEST = {"progress": 1, "metrics": 1, "log": 200}  # what it hears of each kind then


class JobConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Frames are `{seq, type: "events", job: {state, step, …}, events: [{seq, type, at, …}], skipped: false}`.

    `skipped` says that events before `seq` were left out, because there are too many: ask for charts and page again.
    """

    async def connect(self) -> None:
        """Look who asks before anything is said; a stranger learns nothing."""
        self._pump: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._hinted = False
        await self.accept()
        after = parse_qs(self.scope["query_string"].decode()).get("after", ["0"])[0]
        if not (after.isdecimal() and len(after) < 20):
            await self.close(BAD_REQUEST)
            return
        self._job_id: UUID = self.scope["url_route"]["kwargs"]["pk"]
        if not await self._may_see():
            await self.close(NOT_FOUND)
            return
        await self.channel_layer.group_add(f"job.{self._job_id}", self.channel_name)
        self._pump = asyncio.create_task(self._follow(int(after)))

    async def disconnect(self, code: int) -> None:
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._pump
            await self.channel_layer.group_discard(f"job.{self._job_id}", self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Pages have nothing to say here."""

    async def hint(self, event: dict[str, Any]) -> None:
        """The channel layer says that something is new."""
        self._hinted = True
        self._woken.set()

    async def _follow(self, seq: int) -> None:
        """Send what is new until the job has ended and all of it is said."""
        checked = time.monotonic()
        first = True
        while True:
            self._woken.clear()
            try:
                job, events, skipped = await self._news(seq)
            except DatabaseError:
                await asyncio.sleep(POLL_HINTED)
                continue
            if events or skipped or first:
                first = False
                if skipped:
                    seq = job["last_seq"]
                elif events:
                    seq = max(seq, events[-1]["seq"])
                await self.send_json({"seq": seq, "type": "events", "job": job, "events": events, "skipped": skipped})
            if job["state"] in TERMINAL and seq >= job["last_seq"]:
                await self.close(1000)
                return
            await asyncio.sleep(PAUSE)
            if len(events) < MOST_PER_FRAME:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout((POLL_HINTED if self._hinted else POLL) - PAUSE):
                        await self._woken.wait()
            if time.monotonic() - checked > RECHECK:
                checked = time.monotonic()
                if not await self._may_see():
                    await self.close(NOT_FOUND)
                    return

    @database_sync_to_async  # type: ignore[untyped-decorator]
    def _news(self, seq: int) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
        """The job, what happened after `seq`, and whether some of that was left out."""
        job = Job.objects.get(pk=self._job_id)
        missed = job.events.filter(seq__gt=seq, seq__lte=job.last_seq)
        rows: list[JobEvent] = []
        skipped = job.last_seq - seq > MOST_BEHIND
        if skipped:
            for kind, most in NEWEST.items():
                rows += missed.filter(type=kind).order_by("-seq")[:most]
            rows.sort(key=lambda row: row.seq)
        elif job.last_seq > seq:
            rows += missed.order_by("seq")[:MOST_PER_FRAME]
        return snapshot(job), [event_document(row) for row in rows], skipped

    @database_sync_to_async  # type: ignore[untyped-decorator]
    def _may_see(self) -> bool:
        """The signed-in person, in the workspace their session looks at."""
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            return False
        person = User.objects.filter(pk=user.pk, is_active=True).first()
        request: Any = SimpleNamespace(user=person, session=self.scope.get("session") or {})
        actor = current_actor(request) if person else None
        if actor is None:
            return False
        try:
            access.require(actor, "workspace.read", access.find(Job.objects.all(), actor, pk=self._job_id))
        except Problem:
            return False
        return True


def snapshot(job: Job) -> dict[str, Any]:
    """The state of a job in a few fields."""
    return {
        "id": str(job.pk),
        "state": job.state,
        "attempt": job.attempt,
        "step": job.step,
        "total": job.total,
        "unit": job.unit,
        "phase": job.phase,
        "epoch": job.epoch,
        "percent": job.percent,
        "eta_seconds": job.eta_seconds,
        "cancelling": job.is_cancelling,
        "last_seq": job.last_seq,
    }
