"""An export on its way to a person: a process writes it, the web process passes it on."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from datasets_app.exporting import EXPORTS, Export, formats_for
from datasets_app.models import DatasetVersion
from project.kernel import artifacts
from project.kernel.errors import NotReady, TooMany, invalid

AT_ONCE = 4  # exports in one web process
_PIECE = 256 * 1024
_places = threading.BoundedSemaphore(AT_ONCE)


class Broken(Exception):
    """The export ended before the file did: the connection has to break, or half a file would look like one."""


def export(version: DatasetVersion, name: str, request: HttpRequest) -> StreamingHttpResponse:
    """The whole version as a file. Raises Invalid for a format that is unknown or can't hold the rows, TooMany."""
    kind = chosen(version, name)
    if version.artifact is None:
        raise NotReady(f"{version} has no rows.")
    folder = artifacts.local_path(version.artifact)
    if not _places.acquire(blocking=False):
        raise TooMany("Too many downloads at once. Try again in a moment.")
    writing = _Writing([sys.executable, "-m", "datasets_app.exporting", str(folder), name])
    asynchronous = isinstance(getattr(request, "_request", request), ASGIRequest)
    body = writing.pieces_async() if asynchronous else writing.pieces()
    response = StreamingHttpResponse(body, content_type=kind.content_type)
    file = f"{version.dataset.name}-{version.number}.{kind.suffix}"
    response.headers["Content-Disposition"] = f'attachment; filename="{file}"'
    response.headers["X-Accel-Buffering"] = "no"
    response._resource_closers.append(writing.stop)  # type: ignore[attr-defined]  # also when nobody reads it
    return response


def chosen(version: DatasetVersion, name: str) -> Export:
    """The format of this name. Raises Invalid for one that is unknown or can't hold the version's rows."""
    if name not in EXPORTS:
        raise invalid("format", f"Unknown format '{name}'. Known: {', '.join(EXPORTS)}.")
    offered = [one.name for one in formats_for(version.row_kind)]
    if name not in offered:
        raise invalid("format", f"{name} can't hold {version.row_kind} rows. Use one of: {', '.join(offered)}.")
    return EXPORTS[name]


class _Writing:
    """The process that writes, from its start to its end."""

    def __init__(self, command: list[str]) -> None:
        self._stopped = threading.Lock()
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=settings.BASE_DIR, bufsize=0)
        except BaseException:
            _places.release()
            raise

    def _read(self) -> bytes:
        assert self._process.stdout  # noqa: S101
        piece = self._process.stdout.read(_PIECE)
        if not piece and self._process.wait() != 0:
            raise Broken(f"The export ended with code {self._process.returncode}.")
        return piece or b""

    def pieces(self) -> Iterator[bytes]:
        try:
            while piece := self._read():
                yield piece
        finally:
            self.stop()

    async def pieces_async(self) -> AsyncIterator[bytes]:
        try:
            while piece := await asyncio.to_thread(self._read):
                yield piece
        finally:
            self.stop()

    def stop(self) -> None:
        """End the process, once."""
        if not self._stopped.acquire(blocking=False):
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        with suppress(OSError):
            if self._process.stdout:
                self._process.stdout.close()
        _places.release()
