"""Stored folders with a SHA-256 manifest, on a local disk or on S3, through Django's storage API.

A key is made once and never reused: nothing is overwritten and nothing is called "latest".
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages

from project.kernel.errors import Unavailable
from project.kernel.models import Artifact, Workspace, new_id

_CHUNK = 1024 * 1024
_HERE = ".tuneloop-verified"  # marks a cached copy as complete


def _storage() -> Storage:
    return storages["artifacts"]


def is_shared() -> bool:
    """Can other hosts read what this one stores?"""
    return not isinstance(_storage(), FileSystemStorage)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_of(folder: Path) -> list[dict[str, Any]]:
    """[{path, size, sha256}] of every file below `folder`, sorted by path. Links are refused."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"{path.name} is a link; an artifact holds files only")
        if path.is_file():
            files.append(
                {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
            )
    return files


def store_tree(folder: Path, *, workspace: Workspace, kind: str, created_by: str = "", move: bool = False) -> Artifact:
    """Store every file below `folder` under a new key, read back what was stored, and write the row.

    `move` lets a local store take the files over instead of copying them (the folder is the caller's to lose).
    Raises Unavailable when the store does not hold what was sent. A failed store leaves no row.
    """
    artifact = upload_tree(folder, workspace=workspace, kind=kind, created_by=created_by, move=move)
    artifact.save(force_insert=True)
    return artifact


def upload_tree(folder: Path, *, workspace: Workspace, kind: str, created_by: str = "", move: bool = False) -> Artifact:
    """Like `store_tree`, but leaves the row to the caller, who saves it with what depends on it in one transaction."""
    manifest = manifest_of(folder)
    artifact_id = new_id()
    key = f"{workspace.pk}/{kind}/{artifact_id}"
    storage = _storage()
    try:
        if isinstance(storage, FileSystemStorage):
            _store_locally(folder, Path(storage.path(key)), move=move)
        else:
            for entry in manifest:
                with (folder / entry["path"]).open("rb") as file:
                    storage.save(f"{key}/{entry['path']}", File(file))
        artifact = Artifact(
            id=artifact_id,
            workspace=workspace,
            created_by=created_by,
            kind=kind,
            key=key,
            manifest=manifest,
            digest=hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest(),
            size=sum(entry["size"] for entry in manifest),
        )
        problems = verify(artifact, content=not (move and isinstance(storage, FileSystemStorage)))
        if problems:
            raise Unavailable(f"The artifact store did not keep what was sent: {'; '.join(problems[:3])}")
    except BaseException:
        with suppress(Exception):  # the first error is the one to report
            delete_files(key, [entry["path"] for entry in manifest])
        raise
    return artifact


def _store_locally(folder: Path, target: Path, *, move: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if move and folder.stat().st_dev == target.parent.stat().st_dev:
        folder.rename(target)
    else:
        partial = target.with_name(target.name + ".partial")
        shutil.copytree(folder, partial)
        partial.rename(target)


def delete_files(key: str, paths: list[str]) -> None:
    """Remove the files of a key. For what has no row, and for `prune`."""
    storage = _storage()
    if isinstance(storage, FileSystemStorage):
        root = Path(storage.path(key))
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(root.with_name(root.name + ".partial"), ignore_errors=True)
    else:
        for path in paths:
            storage.delete(f"{key}/{path}")


def open_file(artifact: Artifact, name: str) -> IO[bytes]:
    """One stored file, for reading."""
    if name not in {entry["path"] for entry in artifact.manifest}:
        raise FileNotFoundError(f"{artifact} holds no {name}")
    return cast(IO[bytes], _storage().open(f"{artifact.key}/{name}", "rb"))


def read_chunks(artifact: Artifact, name: str) -> Iterator[bytes]:
    """The content of one stored file in pieces of 1 MiB."""
    with open_file(artifact, name) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def verify(artifact: Artifact, *, content: bool = True) -> list[str]:
    """What differs from the manifest, in words; empty when all is well. `content` false compares sizes only."""
    problems = []
    storage = _storage()
    for entry in artifact.manifest:
        name = f"{artifact.key}/{entry['path']}"
        try:
            size = storage.size(name)
            if size != entry["size"]:
                problems.append(f"{entry['path']} has {size} bytes instead of {entry['size']}")
            elif content:
                with storage.open(name, "rb") as file:
                    if hashlib.file_digest(cast(Any, file), "sha256").hexdigest() != entry["sha256"]:
                        problems.append(f"{entry['path']} has changed")
        except OSError as error:
            problems.append(f"{entry['path']} cannot be read: {error}")
        except Exception as error:  # a remote store raises its client's own errors
            problems.append(f"{entry['path']} cannot be read: {type(error).__name__}")
    return problems


def local_path(artifact: Artifact) -> Path:
    """A folder on this host with the files: the store itself when it is local, else a verified cached copy."""
    storage = _storage()
    if isinstance(storage, FileSystemStorage):
        return Path(storage.path(artifact.key))
    cached = Path(settings.MODEL_CACHE_PATH) / "artifacts" / str(artifact.pk)
    if not (cached / _HERE).exists():
        download(artifact, cached)
    return cached


def download(artifact: Artifact, target: Path) -> None:
    """Copy the files into the new folder `target`, verified. Raises Unavailable for one that is not what was stored,
    FileNotFoundError for one that is gone, and what the store's client raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{artifact.pk}.", dir=target.parent))
    try:
        for entry in artifact.manifest:
            path = partial / entry["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for chunk in read_chunks(artifact, entry["path"]):
                    file.write(chunk)
            if path.stat().st_size != entry["size"] or sha256_of(path) != entry["sha256"]:
                raise Unavailable(f"{artifact}: {entry['path']} is not what was stored")
        (partial / _HERE).touch()
        try:
            partial.rename(target)
        except OSError:  # another process finished first
            if not (target / _HERE).exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
