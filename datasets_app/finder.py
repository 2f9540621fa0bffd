"""The web process' side of `searching`: it asks a helper process, and never scans a file itself.

There are at most two helpers a web process, started when somebody searches; they end by themselves after a minute
without questions, and with the web process. One that does not answer in time is ended, and the next question starts
another.
"""

import atexit
import json
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from datasets_app.models import DatasetVersion
from datasets_app.searching import Query
from project.kernel import artifacts
from project.kernel.errors import NotReady, Unavailable

HELPERS = 2
PATIENCE = 20.0  # seconds for an answer
LONG_PATIENCE = 60.0  # seconds, for what reads every text
_QUEUE = 5.0  # seconds to wait for a free helper

Json = dict[str, Any]


class Helper:
    """One process of `python -m datasets_app.searching`. Use it from one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = ""  # what a query spills to the disk; removed here, because a helper may be killed

    def ask(self, request: Json, patience: float) -> Json:
        """Its answer. Raises Unavailable when it takes longer than `patience` seconds or dies."""
        for _ in range(2):  # it may just have ended, because nobody asked for a minute
            process = self._running()
            assert process.stdin and process.stdout  # noqa: S101  (both are pipes)
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                if line := self._line(process, patience):
                    return dict(json.loads(line))
            self.stop()
        raise Unavailable("The search ended without an answer. Try again.")

    def start(self) -> None:
        """Let it run, to answer sooner."""
        self._running()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._scratch = tempfile.mkdtemp(prefix="tuneloop-search-")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "datasets_app.searching", self._scratch],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=settings.BASE_DIR,
                bufsize=0,
            )
        return self._process

    def _line(self, process: "subprocess.Popen[bytes]", patience: float) -> bytes:
        """One line of its output; empty when it has ended."""
        assert process.stdout  # noqa: S101
        until, line = time.monotonic() + patience, b""
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self.stop()
                raise Unavailable(f"That took longer than {patience:.0f} seconds. Narrow it down with a filter.")
            piece = process.stdout.read(65536)
            if not piece:
                return b""
            line += piece
        return line

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = ""


_helpers = [Helper() for _ in range(HELPERS)]
_free = threading.Semaphore(HELPERS)
_lock = threading.Lock()


@atexit.register
def stop() -> None:
    """End the helpers."""
    for helper in _helpers:
        helper.stop()


def warm() -> None:
    """Start a helper if none runs: somebody looks at rows and may search next. Waits for nothing."""
    if _free.acquire(blocking=False):
        try:
            with _lock:
                _helpers[-1].start()
        finally:
            _free.release()


def _ask(request: Json, patience: float | None = None) -> Json:
    if not _free.acquire(timeout=_QUEUE):
        raise Unavailable("Others are searching. Try again in a moment.")
    try:
        with _lock:
            helper = _helpers.pop()  # the one that was used last is running, and remembers
        try:
            answer = helper.ask(request, PATIENCE if patience is None else patience)
        finally:
            with _lock:
                _helpers.append(helper)
    finally:
        _free.release()
    if "refused" in answer:
        raise NotReady(answer["refused"])
    if "failed" in answer:
        raise Unavailable(f"The search failed: {answer['failed']}")
    return answer


def _folder(version: DatasetVersion) -> Path:
    if version.artifact is None:
        raise NotReady(f"{version} has no rows.")
    return artifacts.local_path(version.artifact)


def find(version: DatasetVersion, query: Query, offset: int, limit: int) -> Json:
    """{numbers, count}; `count` is None while there may be more hits. Raises NotReady, Unavailable."""
    return _ask(
        {"do": "find", "folder": str(_folder(version)), "query": query.as_json(), "offset": offset, "limit": limit}
    )


def diff(old: DatasetVersion, new: DatasetVersion, show: str, offset: int, limit: int) -> Json:
    """{counts, rows}: what `new` has other than `old`; `show` is added, removed or changed."""
    request = {"do": "diff", "folder": str(_folder(old)), "to": str(_folder(new)), "show": show}
    return _ask({**request, "offset": offset, "limit": limit})


def leakage(learned: DatasetVersion, held_out: DatasetVersion, offset: int, limit: int) -> Json:
    """{same, same_question, rows}: what of `held_out` is in `learned`."""
    request = {"do": "leakage", "folder": str(_folder(learned)), "to": str(_folder(held_out))}
    return _ask({**request, "offset": offset, "limit": limit})


def similar(learned: DatasetVersion, held_out: DatasetVersion, offset: int, limit: int) -> Json:
    """{near, rows, compared}: what of `held_out` asks almost the same as a row of `learned`. Takes seconds."""
    request = {"do": "similar", "folder": str(_folder(learned)), "to": str(_folder(held_out))}
    return _ask({**request, "offset": offset, "limit": limit}, LONG_PATIENCE)
