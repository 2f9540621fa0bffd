"""The settings of a worker whose artifact store answers only while no file BLOCKED lies in the data folder.

STORE=local is a folder of this host that takes results over by renaming; STORE=remote copies them, as S3 does.
"""

import os
import time
from pathlib import Path
from typing import Any

from django.core.files.storage import FileSystemStorage, Storage

from project.settings import *  # noqa: F403
from project.settings import DATA_PATH, MODEL_STORAGE_PATH, STORAGES


def wait_while_blocked() -> None:
    marker = Path(DATA_PATH) / "BLOCKED"
    if marker.exists():
        (Path(DATA_PATH) / "WAITING").touch()
    while marker.exists():
        time.sleep(0.05)


class Local(FileSystemStorage):
    """Everything is there when it answers: it is asked for sizes after the files were moved."""

    def size(self, name: str) -> int:
        wait_while_blocked()
        return super().size(name)


class Remote(Storage):
    """Another host's disk: no paths, only files."""

    def __init__(self, location: str) -> None:
        self._disk = FileSystemStorage(location=location)

    def _open(self, name: str, mode: str = "rb") -> Any:
        return self._disk.open(name, mode)

    def _save(self, name: str, content: Any) -> str:
        stored = self._disk.save(name, content)
        wait_while_blocked()
        return stored

    def exists(self, name: str) -> bool:
        return self._disk.exists(name)

    def size(self, name: str) -> int:
        return self._disk.size(name)

    def delete(self, name: str) -> None:
        self._disk.delete(name)


_backend = "Remote" if os.environ.get("STORE") == "remote" else "Local"
STORAGES = {
    **STORAGES,
    "artifacts": {"BACKEND": f"{__name__}.{_backend}", "OPTIONS": {"location": str(MODEL_STORAGE_PATH)}},
}
