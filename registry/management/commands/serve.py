"""`manage.py serve`: hold the models of this host ready to answer. One per host; `start` runs one."""

import fcntl
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from registry.serving.supervisor import ServeOptions, Supervisor


class Command(BaseCommand):
    help = "Run the engines that serve this host's deployments, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--device",
            action="append",
            default=[],
            help="cpu or cuda:N; repeat for several (default: every GPU of this host, else cpu)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        devices = tuple(options["device"]) or found_devices()
        lock = self._alone_on_this_host()
        stop = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        self.stdout.write(f"serving on {', '.join(devices)} as host {settings.HOST_NAME}")
        supervisor = Supervisor(
            settings.HOST_NAME,
            folder=Path(settings.RUNS_PATH) / "engines",
            options=ServeOptions(
                devices=devices,
                lease=settings.SERVE_LEASE,
                drain=settings.SERVE_DRAIN,
                engine={
                    "dtype": settings.SERVE_DTYPE,
                    "threads": settings.SERVE_THREADS,
                    "context_limit": settings.SERVE_CONTEXT_LIMIT,
                    "max_batch": settings.SERVE_MAX_BATCH,
                    "max_waiting": settings.SERVE_MAX_WAITING,
                },
            ),
        )
        supervisor.run(stop)
        lock.close()
        self.stdout.write("serving stopped")

    def _alone_on_this_host(self) -> IO[str]:
        """Two supervisors of one host would end each other's engines. The lock goes with the process."""
        path = Path(settings.DATA_PATH) / f"serve-{settings.HOST_NAME}.lock"
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise CommandError(f"Another `serve` runs on this host ({settings.HOST_NAME}) already.") from None
        return lock


def found_devices() -> tuple[str, ...]:
    """Every GPU that the driver lists, else the CPU. Does not import torch."""
    if shutil.which("nvidia-smi"):
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return ("cpu",)
        count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
        return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)
    return ("cpu",)
