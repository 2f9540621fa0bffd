"""Checks beside the reading: a `Validation` in a process of its own, so that a large import uses two cores. Pure.

Rows are sent through a pipe in portions; who sends faster than the checks can see waits. The process ends when its pipe
is closed, and so whenever the one that started it is gone. It is a new one, not a fork: a fork of a process whose
libraries have threads may wait for a lock that nobody gives back.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from datasets_app.importing import Entry
from datasets_app.reading import BadLine
from datasets_app.validation import Validation

WORTH_A_PROCESS = 8 * 1024**2  # bytes of data: below, checks take less than a second
_AT_ONCE, _CHARACTERS_AT_ONCE = 1024, 4_000_000


@contextmanager
def validation(size: int) -> Iterator["Validation | Aside"]:
    """Checks for about `size` bytes of rows: in a process of their own where that is worth it."""
    if size < WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        yield Validation()
        return
    aside = Aside()
    try:
        yield aside
    finally:
        aside.close()


class Aside:
    """A `Validation` in another process. Close it whatever happens."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "datasets_app.checking", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parent.parent,
                pass_fds=[theirs.fileno()],
            )
        self._begin()

    def _begin(self) -> None:
        self._waiting: list[tuple[Any, ...]] = []
        self._characters = 0

    def see(self, entry: Entry) -> None:
        """As `Validation.see`. Raises RuntimeError if the other process is gone or has failed."""
        self._waiting.append(
            (
                *(entry.number, entry.line, entry.data, entry.meta, entry.hash),
                *(entry.as_text, entry.left_out, entry.origin),
            )
        )
        self._characters += len(entry.data)
        if len(self._waiting) >= _AT_ONCE or self._characters >= _CHARACTERS_AT_ONCE:
            self._send("see", self._waiting)
            self._begin()

    def report(self, bad_lines: Iterable[BadLine], bad_count: int, **facts: Any) -> dict[str, Any]:
        """As `Validation.report`. Raises RuntimeError as `see`."""
        self._send("see", self._waiting)
        self._begin()
        self._send("report", (list(bad_lines), bad_count, facts))
        try:
            failed, found = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if failed:
            raise RuntimeError(f"The checks failed: {found}")
        report: dict[str, Any] = found
        return report

    def _send(self, what: str, given: Any) -> None:
        try:
            self._pipe.send((what, given))
        except OSError:
            if self._pipe.poll():  # it said why before it ended
                with suppress(EOFError, OSError):
                    raise RuntimeError(f"The checks failed: {self._pipe.recv()[1]}") from None
            raise self._gone() from None

    def _gone(self) -> RuntimeError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        return RuntimeError(f"The process that checks the rows has ended (exit code {self._process.returncode}).")

    def close(self) -> None:
        """End the other process."""
        self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(pipe: Connection) -> None:
    """The other process: sees what comes until the pipe is closed or the report is asked for."""
    said: tuple[bool, Any]  # have they failed? The report, or why
    try:
        checks = Validation()
        while True:
            try:
                what, given = pipe.recv()
            except (EOFError, OSError):
                return
            if what == "report":
                said = False, checks.report(given[0], given[1], **given[2])
                break
            for number, line, data, meta, digest, as_text, left_out, origin in given:
                checks.see(Entry(number, line, None, None, data, meta, digest, as_text, None, left_out, origin))
    except Exception as error:
        said = True, f"{type(error).__name__}: {error}"
    with suppress(OSError):  # nobody is there any more
        pipe.send(said)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
