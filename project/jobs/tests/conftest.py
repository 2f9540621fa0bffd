"""Recipes without a model, found by this process and by engines; and a stack of real processes for a test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from project.contracts.runs import RECIPES

_PACKAGES = ("project.runner.tests.recipes", "project.jobs.tests.recipes")
_named = [name for name in os.environ.get("TUNELOOP_EXTRA_RECIPES", "").split(",") if name]
os.environ["TUNELOOP_EXTRA_RECIPES"] = ",".join(dict.fromkeys([*_named, *_PACKAGES]))
RECIPES.__dict__.pop("_found", None)  # an app may have looked for recipes when Django started


def migrate(**environment: str) -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "manage.py", "migrate", "-v", "0"]
    clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    subprocess.run(command, cwd=root, env={**clean, **environment}, check=True, timeout=280)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    folder = tmp_path_factory.mktemp("migrated")
    migrate(DATA_PATH=str(folder))
    return folder / "db.sqlite3"


@pytest.fixture
def stack(migrated: Path, tmp_path: Path, settings: Any, django_db_blocker: Any) -> Iterator[Any]:
    """SQLite and the folder broker."""
    from project.jobs.tests.stack import Stack

    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(migrated, data / "db.sqlite3")
    yield from _run(Stack(data), settings, django_db_blocker)


@pytest.fixture
def services(postgres_url: str, redis_url: str, tmp_path: Path, settings: Any, django_db_blocker: Any) -> Iterator[Any]:
    """PostgreSQL and Redis."""
    import psycopg

    from project.jobs.tests.stack import Stack

    name = f"stack_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, query = postgres_url.partition("?")
    url = f"{head.rpartition('/')[0]}/{name}{'?' if query else ''}{query}"
    data = tmp_path / "data"
    data.mkdir()
    migrate(DATA_PATH=str(data), DATABASE_URL=url)
    yield from _run(Stack(data, url, redis_url), settings, django_db_blocker)


def _run(stack: Any, settings: Any, blocker: Any) -> Iterator[Any]:
    from project.jobs.tests.stack import connected

    prepare(stack, settings)
    with blocker.unblock(), connected(stack):
        try:
            yield stack
        finally:
            stack.stop()
            print(stack.logs()[-5000:])  # shown when the test fails


def prepare(stack: Any, settings: Any) -> None:
    """Let this process know the stack's folders and times."""
    from project.jobs.tests.stack import BEAT, LEASE, SWEEP

    settings.RUNS_PATH = stack.data / "runs"
    options = {"location": str(stack.data / "artifacts")}
    store = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": options}
    settings.STORAGES = {**settings.STORAGES, "artifacts": store}
    settings.JOB_LEASE, settings.JOB_BEAT, settings.JOB_SWEEP = LEASE, BEAT, SWEEP
