"""A running product for tests: `manage.py start` in a data folder of its own, and somebody who uses it over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from project.modeling.tiny import make_tiny_model
from project.testing import free_port

MANAGE = Path(__file__).resolve().parent.parent.parent / "manage.py"


@dataclass
class Product:
    """One installation. `env` decides whether it is embedded or on services."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
        return {
            **kept,
            "DATA_PATH": str(self.folder / "data"),
            "MODEL_DIR_ROOT": str(self.folder / "models"),
            "JOB_SWEEP": "2",
            "PYTHONUNBUFFERED": "1",
            **self.env,
        }

    @contextmanager
    def running(self) -> Iterator["Product"]:
        """Start it, wait until it is ready, stop it, and see that nothing is left."""
        make_tiny_model(self.folder / "models" / "tiny")
        log = self.folder / "start.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, str(MANAGE), "start", "--port", str(self.port)],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_for(lambda: self._ready(child, log), 120, "the product to be ready", log)
            yield self
        finally:
            family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                raise AssertionError(f"`start` did not stop:\n{tail(log)}") from None
            _, left = psutil.wait_procs(family, timeout=10)
        assert not left, f"processes outlived the product: {[' '.join(p.cmdline()) for p in left if p.is_running()]}"

    def _ready(self, child: "subprocess.Popen[bytes]", log: Path) -> bool:
        assert child.poll() is None, f"`start` ended with {child.returncode}:\n{tail(log)}"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def manage(self, *arguments: str) -> str:
        found = subprocess.run(
            [sys.executable, str(MANAGE), *arguments], env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, found.stderr
        return found.stdout.strip()

    def token(self, role: str = "owner") -> str:
        return str(json.loads(self.manage("create_token", "--role", role, "--json"))["token"])

    def api(self, token: str) -> "User":
        return User(self, token)


class User:
    """A program with a token."""

    def __init__(self, product: Product, token: str) -> None:
        self.product, self.token = product, token
        self.http = httpx.Client(base_url=product.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def get(self, path: str, **params: Any) -> Any:
        return self._ok(self.http.get(path, params=params))

    def post(self, path: str, body: Any = None) -> Any:
        return self._ok(self.http.post(path, json=body))

    def upload(self, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The data set version made of `rows`, once it is ready."""
        content = "\n".join(json.dumps(row) for row in rows).encode()
        made = self._ok(
            self.http.post("/api/v1/datasets/", data={"name": name}, files={"file": (f"{name}.jsonl", content)})
        )
        self.finish(made["job"])
        return dict(self.get(f"/api/v1/dataset-versions/{made['version']['id']}/"))

    def finish(self, job: str, state: str = "succeeded", limit: float = 180) -> dict[str, Any]:
        """Wait for a job to end, in `state`."""
        ended = ("succeeded", "failed", "cancelled")
        wait_for(lambda: self.get(f"/api/v1/jobs/{job}/")["state"] in ended, limit, f"job {job} to end")
        found = dict(self.get(f"/api/v1/jobs/{job}/"))
        assert found["state"] == state, found
        return found

    def healthy(self, deployment: str, limit: float = 120) -> None:
        def state() -> bool:
            found = self.get(f"/api/v1/deployments/{deployment}/")
            assert found["state"] != "failed", found
            return bool(found["state"] == "healthy")

        wait_for(state, limit, "the deployment to be healthy")

    @staticmethod
    def _ok(response: httpx.Response) -> Any:
        assert response.is_success, f"{response.request.method} {response.request.url}: {response.text[:2000]}"
        return response.json() if response.content else None


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def wait_for(condition: Callable[[], Any], seconds: float, what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}" + (f"\n{tail(log)}" if log else "")
        time.sleep(0.1)
