"""One engine process of this host: start it, talk to it, end it. No database."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from django.conf import settings

from registry.serving.engine.spec import EngineSpec, Ready

# What an engine inherits: enough to find its libraries and devices, no credentials of ours.
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD")
INHERITED_PREFIXES = ("PYTHON", "CUDA", "NVIDIA", "NCCL", "OMP_", "MKL_", "TORCH", "TRITON", "ROCM", "HIP_", "COV_")
LOG_TAIL = 2000  # bytes of the log that are shown when an engine dies without a reason
LOAD_TIMEOUT = 600.0  # seconds to load an adapter
PROBE_TIMEOUT = 120.0  # seconds for one token; a slow host computes the prompt first
HEALTH_TIMEOUT = 10.0  # seconds


class EngineRefused(Exception):
    """The engine said no, and why. `again` is true if the same may work in a moment."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


@dataclass
class EngineProcess:
    """`folder` holds the spec (readable by us only), `ready.json` or `failed.json`, and the log."""

    folder: Path
    spec: dict[str, Any]
    _process: subprocess.Popen[bytes] | None = None
    _ready: Ready | None = None
    _client: httpx.Client | None = None
    _stop_at: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Write the spec and start the process in a session of its own. It watches us and ends when we do."""
        self.folder.mkdir(parents=True, exist_ok=True)
        spec = {**self.spec, "parent": os.getpid()}
        EngineSpec.model_validate(spec)
        path = self.folder / "spec.json"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(spec, file)
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "registry.serving.engine", str(path)],
                cwd=settings.BASE_DIR,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def created(self) -> float | None:
        """When the process was created (Unix time): with the pid it names the process."""
        try:
            return psutil.Process(self.pid).create_time() if self.pid else None
        except psutil.Error:
            return None

    @property
    def has_exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def ready(self) -> Ready | None:
        """What the engine said about itself once it listened; None before."""
        path = self.folder / "ready.json"
        if self._ready is None and path.exists():
            self._ready = Ready.model_validate_json(path.read_bytes())
            self._client = httpx.Client(
                base_url=self._ready.url,
                headers={"authorization": f"Bearer {self.spec['secret']}"},
                timeout=HEALTH_TIMEOUT,
                trust_env=False,
            )
        return self._ready

    def why(self) -> str:
        """Why it is not running any more, in one line if it said so, else from its exit and the end of its log."""
        try:
            return str(json.loads((self.folder / "failed.json").read_bytes())["message"])
        except (OSError, ValueError, KeyError):
            code = self._process.returncode if self._process else None
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        lines = self._log_tail().strip().splitlines()
        return f"The engine {how}. {lines[-1][:300] if lines else ''}".strip()

    def _log_tail(self) -> str:
        try:
            with (self.folder / "log.txt").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    # --- over HTTP; each raises EngineRefused

    def load(self, name: str, path: Path) -> None:
        self._ask("PUT", f"/adapters/{name}", json={"path": str(path)}, timeout=LOAD_TIMEOUT)

    def unload(self, name: str) -> None:
        self._ask("DELETE", f"/adapters/{name}", missing_ok=True)

    def probe(self, name: str) -> None:
        """Let the model answer one real token: only that shows that weights, adapter and template work together."""
        request = {
            "model": name,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 1,
            "temperature": 0,
        }
        answer = self._ask("POST", "/v1/chat/completions", json=request, timeout=PROBE_TIMEOUT)
        if answer.json()["usage"]["completion_tokens"] != 1:
            raise EngineRefused("The engine gave no token for a test question.")

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = self._ask("GET", "/health").json()
        return health

    def _ask(self, method: str, path: str, *, missing_ok: bool = False, **request: Any) -> httpx.Response:
        if self._client is None:
            raise EngineRefused("The engine is not ready.", again=True)
        try:
            answer = self._client.request(method, path, **request)
        except httpx.HTTPError as error:
            raise EngineRefused(f"The engine does not answer: {type(error).__name__}", again=True) from error
        if answer.is_success or (missing_ok and answer.status_code == 404):
            return answer
        try:
            message = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"The engine answered {answer.status_code}."
        raise EngineRefused(message, again=answer.status_code in (429, 503))

    # --- the end

    def stop(self, drain: float) -> None:
        """Ask it to finish what it does within `drain` seconds. Call `enforce` until it has exited."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + drain + 5
            self._signal(signal.SIGTERM)

    @property
    def is_stopping(self) -> bool:
        return self._stop_at is not None

    def enforce(self) -> None:
        """Kill it if it was asked to stop and took too long."""
        if self._stop_at is not None and time.monotonic() > self._stop_at:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of the connection and of the exited process."""
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            self._process.wait(timeout=10)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }


def kill_if_same(pid: int | None, created: float | None) -> bool:
    """Kill the process `pid` if it is the one created at `created` and not another that got its number."""
    if pid is None or created is None:
        return False
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > 1:
            return False
        process.kill()
        process.wait(timeout=10)
    except psutil.Error:
        return False
    return True
