import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import run_checks
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management.base import BaseCommand, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from project.contracts.plugins import PLUGINS
from project.kernel.models import User, Workspace

Finding = tuple[str, str]  # ("ok" | "warning" | "error", what was found and what to do)
_LEAST_FREE = 5 * 1024**3


def django_checks() -> Finding:
    problems = [str(message.msg) for message in run_checks() if message.level >= 30]
    return ("error", "; ".join(problems)) if problems else ("ok", "settings and models are consistent")


def database() -> Finding:
    connection.ensure_connection()
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        return "error", f"{len(waiting)} migrations are not applied: run `manage.py migrate`"
    return "ok", f"{connection.vendor}, migrated"


def data_folder() -> Finding:
    folder = Path(settings.DATA_PATH)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        return "warning", f"{free / 1e9:.1f} GB free in {folder}; a fine-tune needs a few GB"
    return "ok", f"{free / 1e9:.0f} GB free"


def artifact_store() -> Finding:
    storage = storages["artifacts"]
    name = storage.save("doctor/probe", ContentFile(b"tuneloop"))
    with storage.open(name) as file:
        content = file.read()
    storage.delete(name)
    kind = "S3 bucket" if settings.S3_BUCKET else "local folder"
    return ("ok", f"{kind}, written and read back") if content == b"tuneloop" else ("error", f"{kind} lost a file")


def broker() -> Finding:
    from project.celery import app

    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
    return "ok", "Redis" if settings.REDIS_URL else "folder (embedded)"


def workers() -> Finding:
    from project.celery import app

    found = app.control.ping(timeout=2)
    names = sorted(name for answer in found for name in answer)
    if not names:
        return "warning", "no worker answers; `manage.py start` runs them"
    return "ok", ", ".join(names)


def plugins() -> Finding:
    broken = [f"{item.module}: {item.reason}" for kind in PLUGINS for item in kind.broken()]
    if broken:
        return "warning", f"could not be loaded: {'; '.join(broken)}"
    return "ok", f"{sum(len(kind.names()) for kind in PLUGINS)} loaded"


def libraries() -> Finding:
    names = ("torch", "transformers", "peft", "trl", "django", "celery")
    return "ok", ", ".join(f"{name} {version(name)}" for name in names)


def accelerator() -> Finding:
    """Asked in a process of its own: this one never imports torch."""
    import subprocess

    code = "import torch; print(torch.cuda.device_count(), torch.get_num_threads())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if found.returncode:
        return "error", f"torch cannot be imported: {found.stderr.strip().splitlines()[-1:]}"
    gpus, threads = found.stdout.split()
    return "ok", f"{gpus} GPUs" if gpus != "0" else f"no GPU; training runs on {threads} CPU threads"


def people() -> Finding:
    if not User.objects.filter(is_superuser=True, is_active=True).exists():
        return "warning", "no operator account; `manage.py start` makes one and prints a sign-in link"
    return "ok", f"{User.objects.filter(is_active=True).count()} accounts, {Workspace.objects.count()} workspaces"


CHECKS: dict[str, Callable[[], Finding]] = {
    "settings": django_checks,
    "database": database,
    "data folder": data_folder,
    "artifact store": artifact_store,
    "queue": broker,
    "workers": workers,
    "plug-ins": plugins,
    "libraries": libraries,
    "accelerator": accelerator,
    "people": people,
}


class Command(BaseCommand):
    help = "Check everything the product needs and say what to do. Exits with 1 when something is broken."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        findings: dict[str, dict[str, str]] = {}
        for name, check in CHECKS.items():
            try:
                level, detail = check()
            except Exception as error:  # a check that breaks is itself the finding
                level, detail = "error", f"{type(error).__name__}: {error}"
            findings[name] = {"level": level, "detail": detail}
            if not options["json"]:
                mark = {"ok": "✓", "warning": "!", "error": "✗"}[level]
                self.stdout.write(f"{mark} {name:<15} {detail}")
        if options["json"]:
            self.stdout.write(json.dumps(findings, indent=2))
        if any(finding["level"] == "error" for finding in findings.values()):
            sys.exit(1)
