"""Files on their way in: received to a folder of their own, kept while a person still chooses columns."""

import fcntl
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.files.uploadedfile import UploadedFile

from datasets_app.reading import files_of, size_of
from datasets_app.recipes.import_rows import SOURCE
from project.kernel.access import Actor
from project.kernel.errors import Conflict, NotReady, TooLarge, invalid
from project.kernel.models import new_id

_KEPT = 24 * 3600  # seconds an upload waits for somebody to choose its columns
_CHUNK = 1024 * 1024
_SALT = "datasets_app.uploads"
_SIZE = "size"  # the file that says how many bytes are still expected in all


@dataclass(frozen=True)
class Upload:
    """A received file: `folder`/source, and the name it had where it came from."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / SOURCE

    @property
    def size(self) -> int:
        """Bytes of the file, or of all files of a folder."""
        return size_of(self.path)

    @property
    def stem(self) -> str:
        """A name for the data set, from the file's."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name.partition(".")[0]).strip("-._")
        return stem.lower()[:100]

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def receive(file: UploadedFile | None) -> Upload:
    """Write an uploaded file to its folder. Raises Invalid without a file, TooLarge over MAX_UPLOAD_BYTES."""
    if file is None:
        raise invalid("file", "Choose a file to upload, as multipart/form-data.")
    _check_size(file.size or 0)
    upload = _new(file.name or "")
    try:
        with upload.path.open("wb") as target:
            for chunk in file.chunks(_CHUNK):
                target.write(chunk)
    except BaseException:
        upload.forget()
        raise
    return upload


def take(path: Path) -> Upload:
    """Copy a file or a folder of this host, for commands. Raises Invalid for what can't be read."""
    try:
        if not path.is_file() and not path.is_dir():
            raise invalid("file", f"There is no file {path}.")
        _check_size(size_of(path))
        upload = _new(path.name)
        if path.is_dir():
            for file in files_of(path):
                copy = upload.path / file.relative_to(path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            upload.path.mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, upload.path)
    except OSError as error:
        raise invalid("file", f"{path} can't be read: {error.strerror}.") from None
    return upload


# --- in chunks


def begin(name: str, size: int) -> Upload:
    """An upload that arrives in chunks: `size` bytes in all. Raises TooLarge before a byte of it is sent."""
    if size < 0:
        raise invalid("size", "Say how many bytes the file has.")
    _check_size(size)
    upload = _new(name)
    (upload.folder / _SIZE).write_text(str(size))
    upload.path.touch()
    if not size:
        (upload.folder / _SIZE).unlink()
    return upload


def arrived(upload: Upload) -> tuple[int, int]:
    """(bytes that are here, bytes in all)."""
    marker = upload.folder / _SIZE
    here = upload.path.stat().st_size
    return here, int(marker.read_text()) if marker.is_file() else here


def append(upload: Upload, offset: int, data: bytes) -> int:
    """Add a chunk that begins at `offset`; returns the bytes that are here then.

    A chunk that is here already (its answer was lost) is taken as done. Raises Conflict for one that leaves a gap, and
    TooLarge for one that goes past the size that was announced.
    """
    with upload.path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two tabs, or a chunk that is sent again while the first try still runs
        here, size = file.seek(0, os.SEEK_END), arrived(upload)[1]
        if offset + len(data) > size:
            raise TooLarge(f"The file was announced with {size:,} bytes; this chunk ends behind that.")
        if offset > here or (offset < here < offset + len(data)):
            raise Conflict(f"{here:,} bytes are here; go on from there.")
        if offset == here:
            file.write(data)
            here += len(data)
            file.flush()
        if here == size:
            (upload.folder / _SIZE).unlink(missing_ok=True)  # what lies in the folder is what is stored
    os.utime(upload.folder)  # the sweep looks at its age
    return here


def is_complete(upload: Upload) -> bool:
    here, size = arrived(upload)
    return here == size


def _check_size(size: int) -> None:
    limit = settings.MAX_UPLOAD_BYTES
    if size > limit:
        message = f"The file has {size:,} bytes; at most {limit:,} are taken (MAX_UPLOAD_BYTES)."
        raise TooLarge(message, errors={"file": [message]})


def _new(name: str) -> Upload:
    sweep()
    folder = Path(settings.UPLOADS_PATH) / str(new_id())
    folder.mkdir(parents=True)
    clean = "".join(character for character in Path(name).name if character.isprintable())
    return Upload(folder, clean[-255:] or "upload")


def ticket(upload: Upload, by: Actor) -> str:
    """A signed text that gives this upload back to the same person in the same workspace."""
    return signing.dumps([upload.folder.name, upload.name, str(by.workspace.pk), by.identity], salt=_SALT)


def kept(text: str, by: Actor) -> Upload:
    """The upload a ticket stands for. Raises NotReady when it is gone."""
    gone = NotReady("The uploaded file is gone; choose it again.", errors={"file": ["Choose the file again."]})
    try:
        folder, name, workspace, identity = signing.loads(text, salt=_SALT, max_age=_KEPT)
        upload = Upload(Path(settings.UPLOADS_PATH) / str(UUID(folder)), name)
    except (signing.BadSignature, ValueError):
        raise gone from None
    if (workspace, identity) != (str(by.workspace.pk), by.identity) or not upload.path.exists():
        raise gone
    return upload


def whole(text: str, by: Actor) -> Upload:
    """Like `kept`, once all of it has arrived. Raises NotReady before."""
    upload = kept(text, by)
    if not is_complete(upload):
        here, size = arrived(upload)
        message = f"{here:,} of {size:,} bytes of the file have arrived. Choose it again."
        raise NotReady(message, errors={"file": [message]})
    return upload


def sweep() -> None:
    """Forget uploads nobody came back for."""
    oldest = time.time() - _KEPT
    for folder in Path(settings.UPLOADS_PATH).iterdir():
        try:
            if folder.is_dir() and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # another process swept it
            continue
