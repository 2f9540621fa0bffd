"""Files on their way in: received to a folder of their own, kept while a person still chooses columns."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.core.files.uploadedfile import UploadedFile

from datasets_app.recipes.import_rows import SOURCE
from project.kernel.access import Actor
from project.kernel.errors import NotReady, TooLarge, invalid
from project.kernel.models import new_id

_KEPT = 24 * 3600  # seconds an upload waits for somebody to choose its columns
_CHUNK = 1024 * 1024
_SALT = "datasets_app.uploads"


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
        return self.path.stat().st_size

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
    """Copy a file of this host, for commands. Raises Invalid for what is no readable file."""
    try:
        if not path.is_file():
            raise invalid("file", f"There is no file {path}.")
        _check_size(path.stat().st_size)
        upload = _new(path.name)
        shutil.copyfile(path, upload.path)
    except OSError as error:
        raise invalid("file", f"{path} can't be read: {error.strerror}.") from None
    return upload


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
    if (workspace, identity) != (str(by.workspace.pk), by.identity) or not upload.path.is_file():
        raise gone
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
