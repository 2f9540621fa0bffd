"""Answers on their way into the database: grouped, so that a burst costs few commits; bounded; each written once."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from django.db import IntegrityError, InterfaceError, OperationalError, close_old_connections, connections

from abtests.traffic import AnswerRecord, record_answers

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds an answer waits for its row; then it goes out, and the row follows
MOST_WAITING = 20_000  # rows kept while the database is away; beyond that the oldest are lost, loudly
GROUP = 500  # rows per commit
TRY_AGAIN = 0.5  # seconds between tries while the database does not answer


@dataclass(eq=False)
class _Entry:
    record: AnswerRecord
    written: "asyncio.Future[None]"


class Recorder:
    """While one group is being written the next one gathers: there is no delay without load."""

    def __init__(self, write: Callable[[Sequence[AnswerRecord]], None] = record_answers) -> None:
        self._write = write
        self._waiting: deque[_Entry] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway-answers")

    async def keep(self, record: AnswerRecord) -> bool:
        """Write a row; true once it is committed, false if that takes too long (it will be written later)."""
        entry = _Entry(record, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if len(self._waiting) > MOST_WAITING:
            lost = self._waiting.popleft()
            log.error("answer %s is lost: the database has been away for too long", lost.record.id)
            lost.written.cancel()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._work())
        done, _ = await asyncio.wait({entry.written}, timeout=PATIENCE)
        return bool(done) and not entry.written.cancelled()

    async def close(self) -> None:
        """Write what is left, for a moment at most, and give the connection back."""
        if self._writer is not None and not self._writer.done():
            await asyncio.wait({self._writer}, timeout=PATIENCE)
        await asyncio.get_running_loop().run_in_executor(self._pool, connections.close_all)
        self._pool.shutdown(wait=False)

    async def _work(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
            try:
                await self._in_thread([entry.record for entry in group])
            except IntegrityError:  # one of them names what is gone: the others must not suffer
                await self._one_by_one(group)
            except (OperationalError, InterfaceError):
                log.exception("answers cannot be written; trying again")
                self._waiting.extendleft(reversed(group))
                await asyncio.sleep(TRY_AGAIN)
                continue
            except Exception:
                log.exception("a group of answers cannot be kept")
                await self._one_by_one(group)
            for entry in group:
                if not entry.written.done():
                    entry.written.set_result(None)

    async def _one_by_one(self, group: list[_Entry]) -> None:
        for entry in group:
            try:
                await self._in_thread([entry.record])
            except Exception as error:
                log.error("answer %s cannot be kept: %s", entry.record.id, error)
                entry.written.cancel()

    async def _in_thread(self, records: list[AnswerRecord]) -> None:
        def work() -> None:
            close_old_connections()
            try:
                self._write(records)
            finally:
                close_old_connections()

        await asyncio.get_running_loop().run_in_executor(self._pool, work)
