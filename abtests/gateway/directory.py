"""The gateway's copy of what the database says, renewed while requests come in."""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db import DatabaseError, connection
from django.utils import timezone

from abtests.gateway import snapshot
from abtests.gateway.snapshot import Key, Model, Snapshot, Split
from project.kernel.errors import Problem
from project.kernel.models.people import hash_secret
from project.kernel.references import Reference, parse
from registry.serving.engine.wire import ApiError, server_error

REFRESH_AFTER = 1.0  # seconds: then the next request starts a new reading and uses the old one
TOO_OLD = 2.0  # seconds: then the next request waits for the new one
KEEP_WITHOUT_DATABASE = 30.0  # seconds an old copy is used while the database does not answer
REMEMBER_MISSES = 1.0  # seconds
NOTE_USE_EVERY = timedelta(minutes=1)
MOST_MISSES = 10_000

T = TypeVar("T")


class Directory:
    """Answers from memory. Without requests it reads nothing."""

    def __init__(self) -> None:
        self._present: Snapshot | None = None
        self._read_at = -TOO_OLD
        self._reading: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="gateway-directory")
        self._new_keys: dict[str, Key] = {}
        self._noted: dict[UUID, datetime] = {}
        self._unknown_keys: Misses[str, bool] = Misses()
        self._unknown_models: Misses[tuple[UUID, str], ApiError] = Misses()

    async def key(self, secret: str) -> Key:
        """The token with this secret. Raises ApiError 401."""
        present = await self._fresh()
        digest = hash_secret(secret)
        key = present.keys.get(digest) or self._new_keys.get(digest)
        if key is None and not self._unknown_keys.get(digest):
            found = await self._ask(lambda: snapshot.load_keys(secret_hash=digest))
            key = found.get(digest)
            if key is None:
                self._unknown_keys.add(digest, True)
            else:
                self._new_keys[digest] = key
        if key is None or (key.expires_at is not None and key.expires_at <= timezone.now()):
            raise unauthorised("This token is not known here, or it was revoked or has expired.")
        self._note_use(key)
        return key

    def _note_use(self, key: Key) -> None:
        """Write down that a token was used, at most once a minute, without making anybody wait."""
        last = self._noted.get(key.id) or key.last_used_at
        now = timezone.now()
        if last is None or now - last > NOTE_USE_EVERY:
            self._noted[key.id] = now
            note = asyncio.create_task(self._in_thread(lambda: snapshot.note_use(key.id)))
            note.add_done_callback(lambda task: self._noted_or_not(task, key.id))

    def _noted_or_not(self, task: "asyncio.Task[None]", key_id: UUID) -> None:
        if task.cancelled() or task.exception() is not None:
            self._noted.pop(key_id, None)

    async def find(self, workspace_id: UUID, reference: str) -> tuple[Model, Split]:
        """Who answers for a reference. Raises ApiError 404 that says why nobody does."""
        try:
            wanted: Reference = parse(reference, field="model")
        except Problem as problem:
            raise _unknown(problem.detail) from None
        found = (await self._fresh()).find(workspace_id, wanted)
        if found is not None:
            return found
        missed = self._unknown_models.get((workspace_id, reference))
        if missed is None:
            await self._refresh()
            found = (await self._fresh()).find(workspace_id, wanted)
            if found is not None:
                return found
            missed = _unknown(await self._ask(lambda: snapshot.why_not(workspace_id, reference)))
            self._unknown_models.add((workspace_id, reference), missed)
        raise missed

    async def served(self, workspace_id: UUID) -> list[Model]:
        return (await self._fresh()).served(workspace_id)

    async def look(self) -> None:
        """Have a copy that is fresh enough, for somebody who waits and asks nothing."""
        with contextlib.suppress(ApiError):
            await self._fresh()

    def vouched(self, engine_id: UUID | None) -> bool:
        """Did the engine's supervisor vouch for it lately, as far as is known?"""
        return self._present is not None and engine_id in self._present.engines

    def close(self) -> None:
        self._pool.shutdown(wait=False)

    async def _refresh(self) -> None:
        """Read what is true now. Several at once share one reading that began after they asked. Raises ApiError 503."""
        if self._reading is not None:  # it may have begun before what we look for was written
            with contextlib.suppress(DatabaseError):
                await asyncio.shield(self._reading)
        try:
            await asyncio.shield(self._start_reading())
        except DatabaseError as error:
            raise _no_database() from error

    def _start_reading(self) -> "asyncio.Task[None]":
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_said)
        return self._reading

    async def _fresh(self) -> Snapshot:
        age = time.monotonic() - self._read_at
        if self._present is not None and age < REFRESH_AFTER:
            return self._present
        reading = self._start_reading()
        if self._present is None or age > TOO_OLD:
            try:
                await asyncio.shield(reading)
            except DatabaseError as error:
                if self._present is None or age > KEEP_WITHOUT_DATABASE:
                    raise _no_database() from error
        if self._present is None:
            raise RuntimeError("a reading ended without a result")
        return self._present

    async def _read(self) -> None:
        began = time.monotonic()
        self._present = await self._in_thread(snapshot.load)
        self._read_at = began  # what changed while it was read may be missing
        self._new_keys.clear()

    async def _ask(self, call: Callable[[], T]) -> T:
        try:
            return await self._in_thread(call)
        except DatabaseError as error:
            raise _no_database() from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        def work() -> T:
            try:
                return call()
            finally:
                connection.close()  # one reading per second does not deserve a connection of its own

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


K = TypeVar("K")
V = TypeVar("V")


class Misses(Generic[K, V]):
    """A small memory of what was asked for in vain, so that asking again costs nothing for a moment."""

    def __init__(self) -> None:
        self._found: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        until, value = self._found.get(key, (0.0, None))
        return value if time.monotonic() < until else None

    def add(self, key: K, value: V) -> None:
        self._found[key] = (time.monotonic() + REMEMBER_MISSES, value)
        self._found.move_to_end(key)
        while len(self._found) > MOST_MISSES:
            self._found.popitem(last=False)


def unauthorised(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": 'Bearer realm="tuneloop"'})


def _no_database() -> ApiError:
    message = "The gateway cannot reach its database."
    return server_error(503, message, "database_unavailable", {"retry-after": "2"})


def _unknown(message: str) -> ApiError:
    return ApiError(404, message, code="model_not_found", param="model")


def _said(task: "asyncio.Task[Any]") -> None:
    """Whoever waits gets the error; if nobody does, it must not be reported as lost."""
    if not task.cancelled():
        task.exception()
