"""The embedded broker: kombu's folder of message files, with whole messages only.

kombu writes a message into its final file name, so a reader may find half of it and the worker dies of that. Here a
message appears under its name when it is complete, and is taken by renaming it, which only one reader can do. A folder
that was emptied or removed loses messages and nothing else: workers look into the database by themselves.
"""

import logging
import os
import uuid
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps, loads

log = logging.getLogger(__name__)


class Channel(filesystem.Channel):  # type: ignore[misc]
    def _put(self, queue: str, message: Any, **_: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        partial = folder / f".{name}"
        partial.write_text(dumps(message))  # type: ignore[no-untyped-call]
        partial.rename(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for name in self._names():
            if not _is_for(queue, name):
                continue
            mine = Path(self.data_folder_in) / f".taken-{name}"
            try:
                (Path(self.data_folder_in) / name).rename(mine)
                payload = mine.read_text()
                mine.unlink()
                return loads(payload)  # type: ignore[no-untyped-call]
            except FileNotFoundError:  # somebody else took it
                continue
            except ValueError:  # torn when its host crashed
                log.warning("queue: the message %s can't be read and is left out", name)
        raise Empty

    def _size(self, queue: str) -> int:
        return sum(_is_for(queue, name) for name in self._names())

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.data_folder_in))  # noqa: PTH208  (thousands of times an hour)
        except FileNotFoundError:
            return []


def _is_for(queue: str, name: str) -> bool:
    return not name.startswith(".") and name.partition(".")[2] == f"{queue}.msg"


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel


def install() -> None:
    """Let `filesystem://` mean this one."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
