"""What an engine and everything it started hold of the host's memory, and how much more they may ask for.

A limit on the address space would refuse what is only reserved: PyTorch maps a GiB more than it ever touches. So what
is limited is growth, measured again and again: each process may map as much more as the job may still hold.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_KIB = 1024


@dataclass(frozen=True)
class Held:
    """Bytes of one process: `resident` of its own in memory, without files it has mapped; `mapped` to be written."""

    pid: int
    resident: int
    mapped: int


def held(pid: int) -> list[Held]:
    """What a process and its descendants hold now; one that ends meanwhile is left out."""
    found: list[Held] = []
    with contextlib.suppress(psutil.Error):
        me = psutil.Process(pid)
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error, OSError):
                found.append(_held(process))
    return found


def _held(process: psutil.Process) -> Held:
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():  # not Linux
        return Held(process.pid, process.memory_info().rss, 0)
    lines = (line.partition(":") for line in status.read_text().splitlines())
    sizes = {name: int(rest.split()[0]) * _KIB for name, _, rest in lines if rest.endswith(" kB")}
    resident = sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)
    return Held(process.pid, resident, sizes.get("VmData", 0))


def allow(processes: Iterable[Held], more: int) -> None:
    """Let each process map `more` bytes than now. What it asks for beyond that is refused, which it can survive."""
    if not hasattr(psutil, "RLIMIT_DATA"):
        return
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            _, most = psutil.Process(process.pid).rlimit(psutil.RLIMIT_DATA)
            wanted = process.mapped + more
            psutil.Process(process.pid).rlimit(psutil.RLIMIT_DATA, (min(wanted, most) if most >= 0 else wanted, most))
