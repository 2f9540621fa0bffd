"""Checkpoints on disk: either whole and verified, or not there.

A checkpoint is a folder `step-00000042` with its files, a `manifest.json` (names, sizes, SHA-256), and a `COMMIT`
marker, written last, that holds the manifest's own SHA-256. Nothing is called "latest". Supervisors and engines both
read this.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MANIFEST, COMMIT = "manifest.json", "COMMIT"


class CheckpointFile(BaseModel):
    """`name` is relative to the checkpoint, with forward slashes; `size` in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """What a checkpoint holds, and what it belongs to: resuming with other data or settings is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    step: int = Field(ge=0)
    data_digest: str = ""
    config_digest: str = ""
    versions: dict[str, str] = {}
    metrics: dict[str, float] = {}
    files: tuple[CheckpointFile, ...]


def commit(
    built: Path,
    into: Path,
    *,
    step: int,
    data_digest: str = "",
    config_digest: str = "",
    versions: dict[str, str] | None = None,
    metrics: dict[str, float] | None = None,
) -> Path:
    """Turn the folder `built` into the checkpoint `into/step-N` and return its path.

    Both must be on one file system. Files are synced, the manifest is written, the folder renamed, and `COMMIT` comes
    last: a crash at any point leaves no checkpoint rather than half of one. One of the same step in `into` is replaced.
    """
    files = sorted(path for path in built.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    manifest = Manifest(
        step=step,
        data_digest=data_digest,
        config_digest=config_digest,
        versions=versions or {},
        metrics=metrics or {},
        files=tuple(_entry(path, built) for path in files),
    )
    _write(built / MANIFEST, manifest.model_dump_json(indent=1))
    for folder in (built, *(path for path in built.rglob("*") if path.is_dir())):
        _sync(folder)
    into.mkdir(parents=True, exist_ok=True)
    target = into / f"step-{step:08d}"
    if target.exists():
        _delete(target)
    built.rename(target)
    _sync(into)
    _write(target / COMMIT, _sha256(target / MANIFEST))
    _sync(target)
    return target


def read(checkpoint: Path) -> Manifest | None:
    """The manifest of a committed checkpoint, or None. Checks the marker, not the files: `problems` does."""
    try:
        if (checkpoint / COMMIT).read_text().strip() != _sha256(checkpoint / MANIFEST):
            return None
        return Manifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def problems(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint, in words; empty if every byte is as it was committed."""
    manifest = read(checkpoint)
    if manifest is None:
        return [f"{checkpoint.name} was never committed or its manifest is damaged"]
    found = []
    for file in manifest.files:
        path = checkpoint / file.name
        if not path.is_file():
            found.append(f"{checkpoint.name}/{file.name} is missing")
        elif path.stat().st_size != file.size or _sha256(path) != file.sha256:
            found.append(f"{checkpoint.name}/{file.name} is damaged")
    return found


def newest(folders: Iterable[Path]) -> Path | None:
    """The checkpoint of the highest step that verifies in any of the attempts' `checkpoints` folders, or None."""
    found = [(manifest.step, path) for folder in folders for path in _steps(folder) if (manifest := read(path))]
    return next((path for _, path in sorted(found, reverse=True) if not problems(path)), None)


def prune(folder: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` committed checkpoints in `folder`."""
    committed = sorted((path for path in _steps(folder) if read(path)), reverse=True)
    for path in committed[keep:]:
        _delete(path)


def digest_of(settings: object) -> str:
    """SHA-256 of JSON-able settings, for `config_digest`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _delete(path: Path) -> None:
    (path / COMMIT).unlink(missing_ok=True)  # first of all: half a deletion must not look like a checkpoint
    shutil.rmtree(path)


def _steps(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if path.is_dir()]


def _entry(path: Path, root: Path) -> CheckpointFile:
    return CheckpointFile(name=path.relative_to(root).as_posix(), size=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    with path.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(path: Path) -> None:
    """fsync a file or a folder (a folder's fsync makes its names durable)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
