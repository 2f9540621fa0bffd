"""An engine that a warm parent forked, seen from the worker."""

import json
import select
import socket

from project.runner.warm import GO, LONGEST_MESSAGE


class Forked:
    """An engine that is our grandchild: like a `Popen`, its end is told by the warm parent."""

    def __init__(self, pid: int, created: float, line: socket.socket) -> None:
        self.pid, self.created = pid, created
        self.is_lost = False  # the parent died: nobody will learn the exit code
        self.returncode: int | None = None
        self._line = line

    def begin(self) -> None:
        """Let it run. Raises OSError when it died meanwhile."""
        self._line.send(GO)

    def poll(self) -> int | None:
        """The exit code, below 0 the signal that killed it; None while it runs, and when `is_lost`."""
        if self.returncode is None and not self.is_lost and is_readable(self._line, 0):
            told = receive(self._line)
            code = told.get("code")
            self.returncode = code if isinstance(code, int) else None
            self.is_lost = self.returncode is None
            self._line.close()
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        """`poll`, once the process has ended; a parent that is silent about it for `timeout` seconds never tells."""
        if self.returncode is None and not self.is_lost and not is_readable(self._line, timeout):
            self.forget()
        return self.poll()

    def forget(self) -> None:
        """Learn nothing more of it. One that was not told to begin leaves by itself."""
        self.is_lost = True
        self._line.close()


def is_readable(line: socket.socket, seconds: float) -> bool:
    poll = select.poll()  # not select: descriptors may be above 1,023
    poll.register(line, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def receive(line: socket.socket) -> dict[str, object]:
    """One message; empty when the other end has gone."""
    try:
        message = line.recv(LONGEST_MESSAGE)
        return dict(json.loads(message)) if message else {}
    except (OSError, ValueError):
        return {}
