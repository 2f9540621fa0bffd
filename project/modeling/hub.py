"""Fetching files from the Hugging Face Hub, pinned to one commit. Pure: for the recipes of every app."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from project.contracts.runs import UserError

POLL = 0.25  # seconds between two looks at how much has arrived


@dataclass(frozen=True)
class Repository:
    """One commit of a repository: its files with their sizes in bytes."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str  # as asked for; empty: main
    sha: str
    files: dict[str, int] = field(default_factory=dict)


def look_up(kind: Literal["model", "dataset"], name: str, revision: str, *, path: str) -> Repository:
    """What the Hub has under this name at `revision` (empty: main). `path` is how to go on without a network.

    Raises UserError when there is no such repository or the Hub can't be reached.
    """
    from huggingface_hub import HfApi

    with explained(kind, name, revision, path=path):
        api = HfApi(token=_token())
        find = api.model_info if kind == "model" else api.dataset_info
        info = find(name, revision=revision or None, files_metadata=True)
        files = {item.rfilename: item.size or 0 for item in info.siblings or []}
        return Repository(kind, name, revision, info.sha or "", files)


def fetch(
    repository: Repository,
    names: Sequence[str],
    target: Path,
    *,
    tick: Callable[[int, int], None],
    check_stop: Callable[[], None],
    path: str,
) -> None:
    """Download these files into `target`. `tick(done, total)` is told the bytes. Raises UserError as `look_up` does."""
    from huggingface_hub import hf_hub_download

    total = sum(repository.files.get(name, 0) for name in names)
    failures: list[BaseException] = []

    def download() -> None:
        try:
            for name in names:
                hf_hub_download(
                    repository.name,
                    name,
                    repo_type=repository.kind,
                    revision=repository.sha,
                    local_dir=target,
                    token=_token(),
                )
        except BaseException as error:  # handed to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=download, name="hub download", daemon=True)  # dies with us when told to stop
    thread.start()
    while thread.is_alive():
        check_stop()
        tick(min(_arrived(target), total), total)
        thread.join(POLL)
    if failures:
        with explained(repository.kind, repository.name, repository.revision, path=path):
            raise failures[0]


def _token() -> str | bool:
    return os.environ.get("HUGGINGFACE_TOKEN") or False


@contextmanager
def explained(kind: str, name: str, revision: str, *, path: str) -> Iterator[None]:
    """Turn what the Hub's client raises into what a person can do."""
    import httpx2  # what huggingface_hub calls with; its errors are not those of httpx
    from huggingface_hub import errors

    what = "data set" if kind == "dataset" else kind
    try:
        yield
    except errors.GatedRepoError as error:
        raise _problem(
            f"{name} is gated: its owner wants to know who uses it.",
            "Ask for access on its page, and set HUGGINGFACE_TOKEN for the workers.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _problem(f"{name} has no revision '{revision}'.", "Name a branch, a tag or a commit.") from error
    except errors.RepositoryNotFoundError as error:
        raise _problem(
            f"There is no {what} {name} on the Hub, or it is private.",
            f"Check the name; for a private {what} set HUGGINGFACE_TOKEN for the workers.",
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.TransportError) as error:
        raise _problem(
            f"The Hub can't be reached from this host ({type(error).__name__}).", f"Without a network, {path}"
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
