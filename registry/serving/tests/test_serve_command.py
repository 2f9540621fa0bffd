"""`manage.py serve` as an operator runs it: alone on its host, and nothing of it stays behind."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from project.testing import run_manage
from registry.serving.tests.cast import START_TIMEOUT

pytestmark = pytest.mark.full

SEED = """
import sys, django
from pathlib import Path
django.setup()
from project.kernel.models import Workspace
from registry.serving.tests.conftest import make_shelf
shelf = make_shelf(Workspace.objects.create(name="Acme", slug="acme"), *map(Path, sys.argv[1:]))
shelf.deploy(shelf.red)
"""


@pytest.fixture
def host(tmp_path: Path, tiny_base: Path, tiny_adapters: tuple[Path, Path]) -> Iterator["Host"]:
    host = Host(tmp_path)
    run_manage("migrate", env=host.env).check_returncode()
    folders = [str(folder) for folder in (tiny_base, *tiny_adapters)]
    subprocess.run([sys.executable, "-c", SEED, *folders], env={**os.environ, **host.env}, check=True, timeout=120)
    yield host
    host.end()


class Host:
    """A data folder of its own, and `serve` on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.env = {
            "DATA_PATH": str(folder / "data"),
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "SERVE_DTYPE": "float32",
            "SERVE_THREADS": "1",
            "SERVE_DRAIN": "2",
        }

    def serve(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--device", "cpu"],
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "data" / "db.sqlite3", timeout=20)) as database:
            return database.execute(query).fetchall()

    def wait_until_healthy(self, *, engines: int) -> psutil.Process:
        until = time.monotonic() + START_TIMEOUT
        query = "SELECT e.pid FROM registry_deployment d JOIN registry_engine e ON d.engine_id = e.id"
        while True:
            found = self.rows(f"{query} WHERE d.state = 'healthy' AND e.state = 'ready'")
            if found and len(self.rows("SELECT 1 FROM registry_engine")) == engines:
                return psutil.Process(int(str(found[0][0])))
            assert time.monotonic() < until, (self.folder / "log.txt").read_text()
            time.sleep(0.1)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(timeout=10)


def gone(process: psutil.Process, seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def test_it_serves_alone_and_leaves_nothing_behind(host: Host) -> None:
    first = host.serve()
    engine = host.wait_until_healthy(engines=1)

    second = run_manage("serve", env=host.env)
    assert second.returncode == 1 and "runs on this host" in second.stderr

    first.kill()  # no chance to tidy up: the engine notices by itself
    assert gone(engine)
    third = host.serve()
    engine = host.wait_until_healthy(engines=2)
    third.send_signal(signal.SIGTERM)
    assert third.wait(timeout=20) == 0
    assert gone(engine, 1)
    assert sorted(host.rows("SELECT state FROM registry_engine")) == [("failed",), ("stopped",)]
