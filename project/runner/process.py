"""The process that runs one attempt of one job: read the spec, run the recipe, say how it ended.

    python -m project.runner RUN_DIR

RUN_DIR holds `spec.json` (a `RunSpec`); the run appends to `events.jsonl` and leaves `checkpoints/` and `artifact/`.
SIGTERM and SIGINT ask the recipe to stop. Exit code 0 after done or stopped, 1 after a failure, 2 for a spec that
cannot be read, 3 for a disk so full that not even the failure fits. It knows no Django, no database and no secret, and
can be run by hand.
"""

import contextlib
import errno
import importlib.metadata
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from project.contracts.chat import Endpoint
from project.contracts.events import Event, Failed, FailureClass, Stopped
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES, RunSpec, StopRequested, UserError
from project.runner.context import Context
from project.runner.watch import Watch

EXIT_DONE, EXIT_FAILED, EXIT_UNUSABLE, EXIT_FULL = 0, 1, 2, 3
DEVICE_MEMORY_MARKS = (
    "DefaultCPUAllocator: ",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
EXIT_GRACE = 10.0  # seconds a library's left-over thread may keep the process alive after the final event


def main(arguments: Sequence[str]) -> int:
    """Run the attempt in the folder given as the only argument. Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m project.runner RUN_DIR\n")
        return EXIT_UNUSABLE
    folder = Path(arguments[0]).resolve()
    try:
        spec = RunSpec.model_validate_json((folder / "spec.json").read_bytes())
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"{folder / 'spec.json'} cannot be used: {error}\n")
        return EXIT_UNUSABLE
    endpoints = take_secrets()
    prepare_environment(spec)
    # The one visible GPU is number 0 in this process, whatever its number on the host.
    seen = spec.model_copy(update={"device": "cuda:0"}) if spec.device != "cpu" else spec
    context = Context(folder, seen, endpoints)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: context.request_stop())
    try:
        with Watch(context, gpu=os.environ["CUDA_VISIBLE_DEVICES"]):
            context.started(spec.device, installed_versions())
            final = run(context)
        context.emit(final)
        code = EXIT_FAILED if isinstance(final, Failed) else EXIT_DONE
    except OSError as error:  # the disk is so full that the reason itself does not fit
        code = EXIT_FULL if is_storage_full(error) else EXIT_FAILED
        with contextlib.suppress(OSError):
            sys.stderr.write(f"the outcome could not be written: {error}\n")
    _leave_soon(code)
    return code


def take_secrets() -> dict[str, Endpoint]:
    """Read what the supervisor sends through an inherited pipe: never on disk, nor in what `ps e` shows.

    Tokens of the installation go where libraries look for them; those of endpoints stay with the endpoints (returned),
    so that no process of ours inherits them.
    """
    descriptor = os.environ.pop("TUNELOOP_SECRETS_FD", "")
    if not descriptor:
        return {}
    with os.fdopen(int(descriptor), "rb") as pipe:
        given = json.loads(pipe.read())
    os.environ.update(given["secrets"])
    return {name: Endpoint.model_validate(endpoint) for name, endpoint in given["endpoints"].items()}


def prepare_environment(spec: RunSpec) -> None:
    """Set what libraries read once, at import: threads, the visible device, reproducible cuBLAS."""
    os.environ.update(thread_variables(spec.threads))
    os.environ["CUDA_VISIBLE_DEVICES"] = visible_device(spec.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the same numbers as nvidia-smi
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    seed = spec.params.get("seed")
    if isinstance(seed, int):
        random.seed(seed)


def thread_variables(threads: int) -> dict[str, str]:
    """What limits the libraries to so many compute threads; 0 leaves the choice to them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}


def visible_device(device: str, inherited: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES must be for `device`: empty on the CPU, else one GPU, counted among the inherited."""
    if device == "cpu":
        return ""
    index = int(device.removeprefix("cuda").removeprefix(":") or 0)
    names = inherited.split(",") if inherited else []
    return names[index].strip() if index < len(names) else str(index)


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a run computes, without importing them."""
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "tokenizers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run(context: Context) -> Event:
    """Run the recipe and return how it ended. Tracebacks of crashes go to stderr, which is the run's log."""
    try:
        recipe = RECIPES.get(context.spec.recipe)
        recipe.run(recipe.Params.model_validate(context.spec.params), context)
    except StopRequested:
        return _stopped(context)
    except BaseException as error:  # whatever it is, somebody waits for the reason
        if not isinstance(error, UserError | ValidationError | UnknownPlugin):
            with contextlib.suppress(OSError):  # the log's disk may be full
                traceback.print_exc()
                sys.stderr.flush()
        return failure_of(error)
    if context.outcome is not None:
        return context.outcome
    if context.stop_requested:
        return _stopped(context)
    return _failed(FailureClass.CRASH, f"The recipe '{context.spec.recipe}' returned without a result (ctx.done).")


def failure_of(error: BaseException) -> Failed:
    """The failure class, a sentence and a hint for an exception that ended a run."""
    match error:
        case UserError():
            return _failed(error.failure, str(error), hint=error.hint, field=error.field)
        case ValidationError():
            return _invalid_params(error)
        case UnknownPlugin():
            reasons = [broken.reason for broken in RECIPES.broken() if broken.module.rpartition(".")[2] == error.name]
            message = f"The recipe '{error.name}' is broken: {reasons[0]}" if reasons else str(error)
            return _failed(FailureClass.USER_ERROR, message, field="recipe")
    for link in _chain(error):
        if is_device_memory(link):
            message = f"The device ran out of memory: {_sentence(link)}"
            hint = "Use a smaller batch_size with more gradient_accumulation_steps, or a shorter max_seq_length."
            return _failed(FailureClass.DEVICE_MEMORY, message, hint=hint)
        if isinstance(link, MemoryError):
            hint = "Use a smaller batch or a larger host."
            return _failed(FailureClass.HOST_MEMORY, "The host ran out of memory.", hint=hint)
        if is_storage_full(link):
            message = f"The disk is full: {_sentence(link)}"
            return _failed(FailureClass.STORAGE_FULL, message, hint="Free space, then retry.")
    return _failed(FailureClass.CRASH, f"{type(error).__name__}: {_sentence(error)}")


def is_device_memory(error: BaseException) -> bool:
    """CUDA's out-of-memory error, and PyTorch's CPU allocator, which raises a plain RuntimeError. Imports no torch."""
    if any(kind.__name__ == "OutOfMemoryError" and kind.__module__.startswith("torch") for kind in type(error).__mro__):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(mark in text for mark in DEVICE_MEMORY_MARKS)


def is_storage_full(error: BaseException) -> bool:
    """A full disk or quota, also where Rust or C++ code (safetensors, torch.save) says so only in words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "os error 28" in str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _invalid_params(error: ValidationError) -> Failed:
    problems = error.errors(include_url=False, include_context=False)
    field = ".".join(str(part) for part in problems[0]["loc"])
    said = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'params'}: {p['msg']}" for p in problems)
    return _failed(FailureClass.USER_ERROR, f"The parameters are not valid. {said}", field=field)


def _failed(failure: FailureClass, message: str, **more: Any) -> Failed:
    return Failed(at=time.time(), failure=failure, message=message, **more)


def _stopped(context: Context) -> Stopped:
    return Stopped(at=time.time(), step=context.step, checkpoint=context.last_checkpoint)


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__


def _leave_soon(code: int) -> None:
    """A library's forgotten thread must not keep a finished job's process: leave without it after a while."""

    def leave() -> None:
        time.sleep(EXIT_GRACE)
        os._exit(code)

    threading.Thread(target=leave, name="leave-soon", daemon=True).start()
