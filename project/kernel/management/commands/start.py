"""`manage.py start`: every process of one host, together. It only spawns, watches and stops them."""

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import httpx
from django.conf import settings
from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser

from project.kernel.actions import people

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_BACK_OFF = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before a process that died is started again
_HEALTHY_AFTER = 60.0  # seconds a process must live for its back-off to be forgotten


@dataclass
class Part:
    """One of the processes: how it is started, and how often it died lately."""

    name: str
    command: list[str]
    process: "subprocess.Popen[str] | None" = None
    started: float = 0.0
    deaths: int = 0
    again_at: float = 0.0
    reader: threading.Thread | None = field(default=None, repr=False)


class Command(BaseCommand):
    help = "Migrate, then run web, workers, beat and serving together until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        self.stopping = threading.Event()
        self.url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104
        lock = self.alone()
        refuse_taken_port(host, port)
        call_command("migrate", interactive=False, verbosity=0)
        self.greet()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_signal)
        parts = [Part(name, command) for name, command in commands(host, port).items()]
        state = Path(settings.DATA_PATH) / "start.json"
        try:
            for part in parts:
                self.launch(part)
            state.write_text(json.dumps({"pid": os.getpid(), "url": self.url}))
            threading.Thread(target=self.announce, daemon=True).start()
            self.watch(parts)
        finally:
            self.stop(parts)
            state.unlink(missing_ok=True)
            lock.close()

    # --- before

    def alone(self) -> IO[str]:
        """Two of them on one data folder would do everything twice."""
        lock = (Path(settings.DATA_PATH) / "start.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(f"The product is running already on {settings.DATA_PATH}.") from None
        return lock

    def greet(self) -> None:
        user, workspace, created = people.ensure_operator()
        if created:
            link = f"{self.url}/sign-in/{people.sign_in_link(user)}/"
            self.say(f"Made the workspace '{workspace}' and the account '{user.username}'. Sign in, once, with:")
            self.say(f"  {link}")
        else:
            self.say("Sign in with your account; `manage.py sign_in_link` prints a one-time link.")

    def announce(self) -> None:
        while not self.stopping.is_set():
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                    self.say(f"Ready at {self.url}")
                    return
            except httpx.HTTPError:
                pass
            self.stopping.wait(0.3)

    # --- while it runs

    def launch(self, part: Part) -> None:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None

        def die_with_parent() -> None:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        part.process = subprocess.Popen(
            part.command,
            cwd=settings.BASE_DIR,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C reaches us only; we stop the others in order
            preexec_fn=die_with_parent,
        )
        part.started = time.monotonic()
        part.reader = threading.Thread(target=self.relay, args=(part.name, part.process.stdout), daemon=True)
        part.reader.start()

    def relay(self, name: str, lines: IO[str]) -> None:
        for line in lines:
            self.say(f"{name:<6} | {line.rstrip()}")

    def watch(self, parts: list[Part]) -> None:
        """Start again what dies, slower each time."""
        while not self.stopping.wait(0.2):
            now = time.monotonic()
            for part in parts:
                if part.process is not None and part.process.poll() is not None:
                    if now - part.started > _HEALTHY_AFTER:
                        part.deaths = 0
                    wait = _BACK_OFF[min(part.deaths, len(_BACK_OFF) - 1)]
                    self.say(f"{part.name} ended with {part.process.returncode}; it starts again in {wait:.0f} s")
                    part.deaths += 1
                    part.again_at = now + wait
                    part.process = None
                elif part.process is None and now >= part.again_at:
                    self.launch(part)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping.set()

    # --- after

    def stop(self, parts: list[Part]) -> None:
        """Ask all to stop, web last so that pages can say what happens; kill what does not listen."""
        self.stopping.set()
        for part in reversed(parts):
            if part.process is not None and part.process.poll() is None:
                part.process.terminate()
        deadline = time.monotonic() + settings.JOB_STOP_TIMEOUT + 40
        for part in reversed(parts):
            if part.process is None:
                continue
            try:
                part.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.say(f"{part.name} did not stop in time; killed")
                os.killpg(part.process.pid, signal.SIGKILL)
                part.process.wait()
            if part.reader is not None:
                part.reader.join(2)
        self.say("Stopped.")

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def commands(host: str, port: int) -> dict[str, list[str]]:
    """The processes of one host. At scale, run these same commands under your own process manager."""
    celery = [sys.executable, "-m", "celery", "-A", "project.celery", "--quiet"]
    worker = [*celery, "worker", "--pool", "solo", "--loglevel", "info", "--without-mingle", "--without-gossip"]
    web = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--host", host, "--port", str(port)]
    parts = {
        "web": [*web, "--no-access-log", "--timeout-graceful-shutdown", "5"],
        "gpu": [*worker, "--queues", "gpu", "--hostname", "gpu@%h"],
        "cpu": [*worker, "--queues", "cpu", "--hostname", "cpu@%h"],
        "beat": [*celery, "beat", "--loglevel", "warning"],
    }
    if "serve" in get_commands():
        parts["serve"] = [sys.executable, "manage.py", "serve"]
    return parts


def refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from None
