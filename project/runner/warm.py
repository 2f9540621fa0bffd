"""A process that has imported what recipes need, and forks engines that therefore start at once.

    python -m project.runner.warm DESCRIPTOR PADDING

DESCRIPTOR is an inherited end of a `SOCK_SEQPACKET` pair; the worker holds the other one, nobody else can reach it.

    worker -> parent   the path of a run folder, with one end of another pair for that engine
    engine -> worker   {"pid", "created"}: it leads a session of its own and waits
    worker -> engine   GO; an engine that gets none leaves without having touched its run
    parent -> worker   {"code"}: it ended; below 0, the signal that killed it. Nothing when the parent died before it

The parent ends when the worker's end closes; its engines live on, and whoever takes over the job deals with them. It
never initialises CUDA, runs no tensor operation and starts no thread of its own: none of these survives a fork.
PADDING makes room for an engine's command line, by which `ps` and a worker that lost its notes find it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import select
import selectors
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import psutil

from project.contracts.runs import RECIPES
from project.runner.process import main

GO = b"go"
LONGEST_MESSAGE = 64 * 1024
PR_SET_PDEATHSIG = 1  # prctl(2)
HEAVY = ("torch", "transformers", "peft", "trl")


@dataclass
class Forked:
    """A living engine as its parent sees it."""

    pid: int
    descriptor: int  # of the process; readable when it has ended
    worker: socket.socket


def prepare() -> dict[str, object]:
    """Import what engines need. Returns what the worker has to know: whether engines may use a GPU."""
    # Asked whether there is a GPU, torch must look without initialising CUDA, which no fork survives.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    named = [module for recipe in RECIPES.all() for module in getattr(recipe, "preload", ())]
    for module in (*HEAVY, *named):
        try:
            importlib.import_module(module)
        except Exception:  # a run that needs it will say so
            traceback.print_exc()
    del os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]
    gc.collect()
    gc.freeze()  # a collection in an engine would touch, and so copy, all of the parent's memory
    return {"ready": True, "gpu": not cuda_is_initialised()}


def cuda_is_initialised() -> bool:
    """Has a library that was imported opened the GPU?"""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    return any("nvidia-uvm" in _target(number) for number in os.listdir("/proc/self/fd"))  # noqa: PTH208  (numbers)


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
    except OSError:  # the descriptor of the listing itself
        return ""


def serve(control: socket.socket) -> None:
    """Fork engines until the worker's end closes. Returns in the parent only."""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if isinstance(key.data, Forked):
                    selector.unregister(key.data.descriptor)
                    _report_end(key.data)
                elif (engine := _take_request(control)) is not None:
                    selector.register(engine.descriptor, selectors.EVENT_READ, engine)
                else:
                    return


def _take_request(control: socket.socket) -> Forked | None:
    """Fork one engine; None when the worker has gone."""
    message, descriptors, _, _ = socket.recv_fds(control, LONGEST_MESSAGE, 1)
    if not message:
        return None
    worker = socket.socket(fileno=descriptors[0])
    pid = os.fork()
    if pid == 0:
        _become_engine(Path(os.fsdecode(message)), worker)
    return Forked(pid, os.pidfd_open(pid), worker)


def _report_end(engine: Forked) -> None:
    os.close(engine.descriptor)
    _, status = os.waitpid(engine.pid, 0)
    with engine.worker:
        try:
            engine.worker.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
        except OSError:  # the worker no longer wants to know
            return


def _become_engine(folder: Path, worker: socket.socket) -> None:
    """The child's whole life: the same as `python -m project.runner FOLDER`. Does not return."""
    code = 1
    try:
        os.setsid()
        name_process(["-m", "project.runner", str(folder)])
        if not _is_wanted(worker):
            return
        _redirect(folder)
        _reseed()
        os.chdir(folder)
        code = main([str(folder)])
    except BaseException:  # nothing may return into the parent's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _is_wanted(worker: socket.socket) -> bool:
    """Say who we are, and wait for the word to begin."""
    me = psutil.Process()
    worker.send(json.dumps({"pid": me.pid, "created": me.create_time()}).encode())
    return worker.recv(len(GO)) == GO


def _redirect(folder: Path) -> None:
    """Keep no descriptor of the parent: nothing comes in, everything goes to the run's log."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for wanted, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(wanted, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _reseed() -> None:
    """Engines must not draw the same numbers where nobody set a seed. Torch's own start is the same in any process."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def name_process(arguments: list[str]) -> None:
    """Overwrite the command line that others see, as far as there is room: the end of it is what counts."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc_pid_stat(5)
    line = b"\0".join(os.fsencode(argument) for argument in ["", *arguments]) + b"\0"
    if start and len(line) <= end - start:
        ctypes.memmove(start, b" " * (end - start - len(line)) + line, end - start)


def end_with_worker() -> None:
    """Be killed when the thread that started us is gone, also while we import; a fork does not inherit that."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _has_gone(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLHUP)
    return bool(poll.poll(0))


def run(descriptor: int) -> None:
    """Import, say that we are ready, serve."""
    end_with_worker()  # it may have ended before
    with socket.socket(fileno=descriptor) as control:
        control.set_inheritable(False)
        if _has_gone(control):
            return
        facts = prepare()
        try:
            control.send(json.dumps(facts).encode())
        except OSError:  # the worker died meanwhile
            return
        serve(control)


if __name__ == "__main__":
    run(int(sys.argv[1]))
