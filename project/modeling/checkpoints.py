"""Checkpoints on disk: either whole and verified, or not there.

A checkpoint is a folder `step-00000042` with its files, a `manifest.json` (names, sizes, SHA-256), and a `COMMIT`
marker, written last, that holds the manifest's own SHA-256. Nothing is called "latest". Supervisors and engines both
read this.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MANIFEST, COMMIT = "manifest.json", "COMMIT"
HOLD = "HOLD"  # a file of this name in a checkpoint keeps it from being pruned while somebody reads it
K = TypeVar("K")


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
    conditions: dict[str, str | int] = Field(
        default={}, description="what else decides the last digits: device, threads, batch_size"
    )
    metrics: dict[str, float] = {}
    files: tuple[CheckpointFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def commit(
    built: Path,
    into: Path,
    *,
    step: int,
    data_digest: str = "",
    config_digest: str = "",
    versions: Mapping[str, str] | None = None,
    conditions: Mapping[str, str | int] | None = None,
    metrics: Mapping[str, float] | None = None,
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
        versions=dict(versions or {}),
        conditions=dict(conditions or {}),
        metrics=dict(metrics or {}),
        files=tuple(_entry(path, built) for path in files),
    )
    _write(built / MANIFEST, manifest.model_dump_json(indent=1))
    for folder in (built, *(path for path in built.rglob("*") if path.is_dir())):
        _sync(folder)
    into.mkdir(parents=True, exist_ok=True)
    target = into / f"step-{step:08d}"
    if target.exists():
        remove(target)
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


def worth_keeping(newest_first: Sequence[tuple[K, float | None]], *, last: int) -> set[K]:
    """Of (checkpoint, validation loss or None if not measured): the first `last`, and the one with the lowest loss."""
    kept = {key for key, _ in newest_first[:last]}
    measured = [(loss, key) for key, loss in reversed(newest_first) if loss is not None]
    if measured:
        kept.add(min(measured, key=lambda each: each[0])[1])  # of equal ones the oldest, as `save_best_model` does
    return kept


def prune(folder: Path, *, keep: int) -> None:
    """Delete the committed checkpoints in `folder` but the newest `keep` and the one with the lowest `eval_loss`."""
    committed = [(path, found) for path in sorted(_steps(folder), reverse=True) if (found := read(path))]
    kept = worth_keeping([(path, found.metrics.get("eval_loss")) for path, found in committed], last=keep)
    for path, _ in committed:
        if path not in kept and not (path / HOLD).exists():
            remove(path)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, which somebody else may be deleting too. Half a deletion does not look like a checkpoint."""
    (checkpoint / COMMIT).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def differences(then: Manifest, *, versions: Mapping[str, str], conditions: Mapping[str, str | int]) -> list[str]:
    """Why a run that goes on from `then` may differ in the last digits from one that was never interrupted, in words.

    Empty when it is the same bit for bit: same device, threads, micro-batch and libraries.
    """
    found = []
    for name, words in _CONDITIONS.items():
        before, now = then.conditions.get(name), conditions.get(name)
        if before is not None and now is not None and before != now:
            found.append(words.format(now=now, before=before))
    for name, now in versions.items():
        before = then.versions.get(name, now)
        if before != now:
            found.append(f"with {name} {now} instead of {before}")
    return found


_CONDITIONS = {
    "device": "on {now} instead of {before}",
    "threads": "on {now} threads instead of {before}",
    "batch_size": "with a batch_size of {now} instead of {before}",
    "gradient_checkpointing": "with gradient_checkpointing {now} instead of {before}",
}


def digest_of_manifest(checkpoint: Path) -> str:
    """SHA-256 of the manifest of a committed checkpoint: with it every byte is settled. '' if there is none."""
    return _sha256(checkpoint / MANIFEST) if (checkpoint / MANIFEST).is_file() else ""


def digest_of(settings: object) -> str:
    """SHA-256 of JSON-able settings, for `config_digest`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
