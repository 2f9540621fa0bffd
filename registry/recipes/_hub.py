"""Fetching a model's files from the Hugging Face Hub, pinned to one commit."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from project.contracts.runs import UserError
from registry.recipes._files import is_wanted, require_space
from registry.sources import Source

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

POLL = 0.25  # seconds between two looks at how much has arrived


def download(source: Source, target: Path, *, tick: Callable[[int, int], None], check_stop: Callable[[], None]) -> str:
    """Fetch safetensors, config and tokenizer of `source` into `target`; returns the commit's sha.

    Weights in other formats are not fetched. Raises UserError when the Hub has no such model or can't be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download

    token = os.environ.get("HUGGINGFACE_TOKEN") or False
    with _explained(source):
        info = HfApi(token=token).model_info(source.name, revision=source.revision or None, files_metadata=True)
    sha = info.sha or ""
    files = _wanted_files(source, info)
    total = sum(files.values())
    require_space(target, 2 * total)  # the download and its copy
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            for name in files:
                hf_hub_download(source.name, name, revision=sha, local_dir=target, token=token)
        except BaseException as error:  # handed to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=fetch, name="hub download", daemon=True)  # dies with us when we are told to stop
    thread.start()
    while thread.is_alive():
        check_stop()
        tick(min(_arrived(target), total), total)
        thread.join(POLL)
    if failures:
        with _explained(source):
            raise failures[0]
    return sha


def _wanted_files(source: Source, info: "ModelInfo") -> dict[str, int]:
    siblings = {item.rfilename: item.size or 0 for item in info.siblings or []}
    files = {name: size for name, size in siblings.items() if "/" not in name and is_wanted(name)}
    if not any(name.endswith(".safetensors") for name in files):
        others = sorted(name for name in siblings if name.endswith((".bin", ".pt", ".pth", ".gguf")))
        has = f" (it has {', '.join(others[:3])})" if others else ""
        raise UserError(
            f"{source.name} has no safetensors weights{has}.",
            hint="Pickled weights can run code when they are opened, so they are refused. Choose another repository.",
            field="source",
        )
    return files


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turn what the Hub's client raises into what a person can do."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise _problem(
            f"{source.name} is gated: its owner wants to know who uses it.",
            "Ask for access on its page, and set HUGGINGFACE_TOKEN for the workers.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _problem(
            f"{source.name} has no revision '{source.revision}'.", "Name a branch, a tag or a commit."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _problem(
            f"There is no model {source.name} on the Hub, or it is private.",
            "Check the name; for a private model set HUGGINGFACE_TOKEN for the workers.",
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx.TransportError) as error:
        raise _problem(
            f"The Hub can't be reached from this host ({type(error).__name__}).",
            "Without a network, copy the model's folder below MODEL_DIR_ROOT and import dir:NAME.",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _problem(f"The Hub answered: {error}", "Try again later.") from error


def _problem(message: str, hint: str) -> UserError:
    return UserError(message, hint=hint, field="source")


def _arrived(folder: Path) -> int:
    """Bytes on disk below `folder`, with the files that are still coming."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed in this moment
            continue
    return size
