"""One command that runs the product: web, workers, beat and model serving."""

import json
import os
import shlex
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from project.kernel.actions import people
from project.kernel.processes import Child, Children

READY_LIMIT = 120  # seconds
WEB_TRIES = 3  # a web process that dies this often before it ever answered will not come up
STATE = "start.json"
_NO_NEWS = (
    "ignore:You're running the worker with superuser privileges",  # it reads no pickles
    "ignore:StreamingHttpResponse must consume synchronous iterators",  # static files, in development only
)
_MANAGE = str(Path(settings.BASE_DIR) / "manage.py")


class Command(BaseCommand):
    help = (
        "Serve the site: migrates the database, makes the first account, and runs web, workers, beat and model "
        "serving until Ctrl-C. A second Ctrl-C stops at once, without saving what runs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
        parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
        parser.add_argument("--workers", type=int, default=1, help="web processes (default: 1)")
        parser.add_argument("--without", default="", help="comma-separated: what runs elsewhere, of gpu,cpu,beat,serve")

    def handle(self, *args: Any, **options: Any) -> None:
        self._signals = 0
        self._width = max(len(name) for name in ("worker-gpu", "worker-cpu"))
        self._refuse_second_start()
        with self._listen(options["host"], options["port"]) as listener:
            host, port = listener.getsockname()[:2]
            shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
            self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
            call_command("migrate", verbosity=0)
            link = self._first_account()
            connections.close_all()
            self.children = Children(self._say)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self._on_signal)
            try:
                self._run(listener, options, link)
            finally:
                self._stop()

    # --- before

    def _refuse_second_start(self) -> None:
        state = read_state()
        if state is not None:
            raise CommandError(
                f"Tuneloop runs on {settings.DATA_PATH} already: {state['url']} (process {state['pid']}). "
                "Stop that one first, or set DATA_PATH to another folder."
            )

    def _listen(self, host: str, port: int) -> socket.socket:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family, backlog=1024)
        except OSError as error:
            taken = error.errno in (48, 98)
            reason = "is taken by another program" if taken else f"can't be used: {error.strerror or error}"
            raise CommandError(f"Port {port} on {host} {reason}. Choose one with --port.") from None

    def _first_account(self) -> str:
        """A sign-in link for a fresh installation, else ''."""
        user, workspace, created = people.ensure_operator()
        if not created:
            return ""
        self.stdout.write(f"Made the workspace '{workspace.name}' and its operator '{user.username}'.")
        return f"{self.url}/sign-in/{people.sign_in_link(user)}/"

    # --- running

    def _run(self, listener: socket.socket, options: dict[str, Any], link: str) -> None:
        for child in self._plan(listener, options):
            if options["verbosity"] > 1:
                self._say(child.name, shlex.join(child.command))
            self.children.start(child)
        self._write_state(ready=False)
        if not self._wait_until_ready():
            return
        self._write_state(ready=True)
        self.stdout.write(f"Tuneloop is ready at {self.url}")
        if link:
            self.stdout.write(f"Sign in with this link, once, within 30 minutes:\n  {link}")
            self.stdout.write("`manage.py sign_in_link` makes another one. Ctrl-C stops everything.")
        self.stdout.flush()
        while not self._signals:
            if self.children.look():
                self._write_state(ready=True)
            time.sleep(0.2)

    def _plan(self, listener: socket.socket, options: dict[str, Any]) -> list[Child]:
        without = {name.strip() for name in options["without"].split(",") if name.strip()}
        if unknown := without - {"gpu", "cpu", "beat", "serve"}:
            raise CommandError(f"--without knows gpu, cpu, beat and serve, not {', '.join(sorted(unknown))}.")
        python, celery = sys.executable, [sys.executable, "-m", "celery", "-A", "project.celery", "-q"]
        web = [python, "-m", "uvicorn", "project.asgi:application", "--fd", str(listener.fileno())]
        web += ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "5", "--lifespan", "on"]
        web += ["--workers", str(options["workers"])] if options["workers"] > 1 else []
        save = settings.JOB_STOP_TIMEOUT + 40  # running jobs save and go back to the queue
        plan = [Child("web", web, patience=15, pass_fds=(listener.fileno(),))]
        for queue in ("gpu", "cpu"):
            if queue not in without:
                worker = [*celery, "worker", "-Q", queue, "-n", f"{queue}@%h", "--without-mingle"]
                plan.append(Child(f"worker-{queue}", [*worker, "--without-gossip"], patience=save))
        if "beat" not in without:
            plan.append(Child("beat", [*celery, "beat"]))
        if "serve" not in without and "serve" in get_commands():
            plan.append(Child("serve", [python, _MANAGE, "serve"], patience=45))
        os.environ["PYTHONUNBUFFERED"] = "1"
        os.environ.setdefault("PYTHONWARNINGS", ",".join(_NO_NEWS))
        return plan

    def _wait_until_ready(self) -> bool:
        """False when somebody wants to stop already."""
        web = self.children.all[0]
        deadline = time.monotonic() + READY_LIMIT
        while not self._signals:
            self.children.look()
            if web.restarts >= WEB_TRIES:
                last = "\n  ".join(web.words)
                raise CommandError(f"The web process does not start. Its last words:\n  {last}")
            if _answers(f"{self.url}/healthz"):
                return True
            if time.monotonic() > deadline:
                raise CommandError(f"The web process did not answer within {READY_LIMIT} s.")
            time.sleep(0.1)
        return False

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals += 1

    def _say(self, name: str, line: str) -> None:
        self.stdout.write(f"{name:<{self._width}} | {line}")
        self.stdout.flush()

    # --- the end

    def _stop(self) -> None:
        if any(child.pid for child in self.children.all):
            self.stdout.write("Stopping. What runs is saved and goes on at the next start; Ctrl-C again stops at once.")
            self.stdout.flush()
        before = self._signals
        killed = self.children.stop(hurry=lambda: self._signals > max(before, 1))
        if any(name.startswith("worker") for name in killed) and "recover_jobs" in get_commands():
            call_command("recover_jobs")  # their engines are in process groups of their own
        (Path(settings.DATA_PATH) / STATE).unlink(missing_ok=True)
        self.stdout.write(f"Stopped{f' (killed: {chr(44).join(killed)})' if killed else ''}.")

    def _write_state(self, *, ready: bool) -> None:
        me = psutil.Process()
        state = {
            "pid": me.pid,
            "created": me.create_time(),
            "url": self.url,
            "ready": ready,
            "children": {child.name: child.pid for child in self.children.all},
        }
        path = Path(settings.DATA_PATH) / STATE
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(state, indent=2))
        partial.rename(path)


def read_state() -> dict[str, Any] | None:
    """What the running `start` on this data folder wrote about itself; None when there is none."""
    try:
        state: dict[str, Any] = json.loads((Path(settings.DATA_PATH) / STATE).read_text())
        alive = abs(psutil.Process(state["pid"]).create_time() - state["created"]) < 0.05
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return state if alive else None


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
