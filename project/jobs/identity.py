"""Naming a worker process so that others on its host can tell whether it still lives."""

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from django.conf import settings

from project.jobs.engine import created_at, is_process


@dataclass(frozen=True)
class Identity:
    """`namespace` is where the pid counts (a container has its own); `nonce` tells two users of one process apart."""

    host: str
    namespace: str
    pid: int
    created: float
    nonce: str

    def __str__(self) -> str:
        return f"{self.host[:120]} {self.namespace} {self.pid} {self.created:.2f} {self.nonce}"

    @classmethod
    def mine(cls) -> "Identity":
        pid = os.getpid()
        return cls(settings.HOST_NAME.replace(" ", "-"), _namespace(), pid, created_at(pid) or 0.0, uuid4().hex[:8])

    @classmethod
    def parse(cls, text: str) -> "Identity | None":
        try:
            host, namespace, pid, created, nonce = text.split(" ")
            return cls(host, namespace, int(pid), float(created), nonce)
        except ValueError:
            return None


def is_dead(owner: str) -> bool:
    """Is the worker certainly gone? Only what runs on this host, and where this process counts pids, can be known."""
    named = Identity.parse(owner)
    if named is None or named.host != settings.HOST_NAME.replace(" ", "-") or named.namespace != _namespace():
        return False
    return not is_process(named.pid, named.created)


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # no Linux: one namespace
        return "-"
