"""`manage.py start`: one command runs everything, and leaves nothing behind."""

import json
import re
import signal
import socket
from typing import Any

import httpx
import psutil
import pytest

from project.jobs.models import Job
from project.jobs.tests.stack import Stack, ended, stepping, until


def state_of(stack: Stack) -> dict[str, Any]:
    def ready() -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads((stack.data / "start.json").read_text())
        except (OSError, ValueError):
            return None
        return state if state["ready"] else None

    state: dict[str, Any] = until(ready, f"start to be ready:\n{stack.logs()}", 90)
    return state


def family(pid: int) -> list[psutil.Process]:
    me = psutil.Process(pid)
    return [me, *me.children(recursive=True)]


@pytest.mark.full
def test_start_runs_jobs_restarts_what_dies_and_leaves_nothing(stack: Stack) -> None:
    product = stack.manage("start", "--port", "0", "--without", "serve,gpu")
    state = state_of(stack)
    assert httpx.get(f"{state['url']}/readyz").status_code == 200
    link = re.search(r"http://\S+/sign-in/\S+/", stack.logs())
    assert link is not None
    browser = httpx.Client(follow_redirects=True)
    page = browser.get(link[0])
    csrf = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert csrf is not None
    assert browser.post(link[0], data={"csrfmiddlewaretoken": csrf[1]}).status_code == 200

    assert ended(stack.launch(steps=2)).state == "succeeded"
    long = stack.launch(steps=400, pause=0.05, checkpoint_every=5)
    stepping(long, 6)
    psutil.Process(state["children"]["worker-cpu"]).kill()
    until(lambda: "going on with it" in stack.logs(), "the new worker to take the engine over")
    stepping(long, Job.objects.get(pk=long.pk).step + 5)

    members = family(product.pid)
    product.send_signal(signal.SIGTERM)
    assert product.wait(30) == 0
    assert [process for process in members if process.is_running()] == []
    assert not (stack.data / "start.json").exists()
    assert Job.objects.get(pk=long.pk).state == "queued"
    assert "worker-cpu | ended with signal SIGKILL; it is started again in 0.5 s" in stack.logs()


@pytest.mark.full
def test_killing_start_itself_leaves_nothing_either(stack: Stack) -> None:
    product = stack.manage("start", "--port", "0", "--without", "serve,gpu,beat")
    state_of(stack)
    members = family(product.pid)
    product.kill()
    product.wait()
    until(lambda: not any(process.is_running() for process in members), "the end of all children", 20)


def test_a_taken_port_is_said(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = stack.manage("start", "--port", str(port))
        assert refused.wait(60) == 1
    assert f"Port {port} on 127.0.0.1 is taken by another program. Choose one with --port." in stack.logs()
