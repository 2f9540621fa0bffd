"""`python -m registry.serving.engine SPEC.json`: load a model, listen, and say so in `ready.json` beside the spec.

If the model cannot be loaded `failed.json` says why and the exit code is 1. SIGTERM lets running answers finish, up to
the spec's `drain`. The process ends when its parent does.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from project.contracts.runs import UserError
from project.runner.process import visible_device
from registry.serving.engine.spec import EngineSpec, Ready

ORPHAN_GRACE = 5.0  # seconds to finish after the parent died
LOOK_AT_PARENT = 0.5  # seconds


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop. 0 after a clean stop, 1 if the model can't be loaded, 2 for an unusable spec."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m registry.serving.engine SPEC.json\n")
        return 2
    path = Path(arguments[0]).resolve()
    try:
        spec = EngineSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"{path} cannot be used: {error}\n")
        return 2
    for name in ("ready.json", "failed.json"):
        (path.parent / name).unlink(missing_ok=True)
    if spec.parent:
        threading.Thread(target=_watch_parent, args=(spec.parent,), name="parent", daemon=True).start()
    _prepare_environment(spec)
    try:
        return _serve(spec, path.parent)
    except (UserError, RuntimeError, MemoryError, OSError) as error:
        traceback.print_exc()
        hint = f" {error.hint}" if isinstance(error, UserError) and error.hint else ""
        _write(path.parent / "failed.json", json.dumps({"message": f"{error}{hint}".splitlines()[0][:500]}))
        return 1


def _prepare_environment(spec: EngineSpec) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = visible_device(spec.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HUB_OFFLINE"] = "1"
    # On a host that also trains, threads that spin while they wait take the very cores they wait for: measured with six
    # busy processes on two cores, 1.2 against 21 tokens/s (batch of 4, float32).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if spec.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(spec.threads)


def _serve(spec: EngineSpec, folder: Path) -> int:
    import uvicorn

    from registry.serving.engine.app import EngineApp
    from registry.serving.engine.decoder import Decoder
    from registry.serving.engine.model import ServedModel

    listener = socket.create_server((spec.host, spec.port))
    model = ServedModel(spec.model_copy(update={"device": "cpu" if spec.device == "cpu" else "cuda:0"}))
    decoder = Decoder(model, spec, on_fatal=lambda: os._exit(3))
    decoder.start()
    host, port = listener.getsockname()[:2]
    ready = Ready(url=f"http://{host}:{port}", pid=os.getpid(), context=model.context, dtype=model.dtype)

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _write(folder / "ready.json", ready.model_dump_json())

    config = uvicorn.Config(
        EngineApp(decoder, spec.secret.get_secret_value()),
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,  # longer than clients keep idle connections, so that none is closed under a request
        timeout_graceful_shutdown=int(spec.drain) or 1,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)  # uvicorn raises them again once it has stopped
    asyncio.run(Server(config).serve(sockets=[listener]))
    decoder.close()
    return 0


def _watch_parent(parent: int) -> None:
    """Stop when the process that started this one is gone: its children go to another parent."""
    while os.getppid() == parent:
        time.sleep(LOOK_AT_PARENT)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE)
    os._exit(1)


def _write(path: Path, content: str) -> None:
    """All or nothing, for a reader that looks at any moment."""
    partial = path.with_suffix(".partial")
    partial.write_text(content)
    partial.replace(path)
