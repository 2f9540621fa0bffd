"""What comes in and how: the file or the place of its rows, and the job that imports it. Nothing here changes rows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile

from datasets_app import sources, uploads
from datasets_app.encodings import declared
from datasets_app.importing import Importing, Options
from datasets_app.reading import Limits, size_of
from datasets_app.recipes import fetch_rows, import_rows
from datasets_app.sources import Uri
from datasets_app.uploads import Upload
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import UserError
from project.kernel import artifacts
from project.kernel.access import Actor
from project.kernel.errors import Invalid, invalid
from project.kernel.models import Artifact, Workspace

CHECKED_AT_ONCE = 32 * 1024**2  # bytes: what takes seconds to read through is checked before it is accepted
MAX_COLUMN = 500  # characters

File = Upload | UploadedFile | Path | Uri


@dataclass(frozen=True)
class Incoming:
    """What a new version is made of: its recipe with the parameters, the job's inputs, and what the version notes.

    `stored` is an artifact whose files are there and whose row is not saved yet.
    """

    recipe: str
    params: import_rows.Params
    inputs: Mapping[str, Artifact | str]
    facts: Mapping[str, Any]
    stored: Artifact | None = None

    def drop(self) -> None:
        """Remove what was stored, after an error."""
        if self.stored is not None:
            artifacts.delete_files(self.stored.key, [entry["path"] for entry in self.stored.manifest])


@dataclass(frozen=True)
class Reading:
    """How to read what comes in, as people say it. `columns` maps parts of a row to columns."""

    columns: Mapping[str, str] = field(default_factory=dict)
    skip_bad_lines: bool = False
    format: str = "auto"
    encoding: str = "auto"
    split: str = ""

    def options(self) -> Options:
        """Raises Invalid at the field that can't be meant."""
        for part, column in self.columns.items():
            if not part or not column or not f"{part}{column}".isprintable() or len(column) > MAX_COLUMN:
                raise invalid("columns", f"Use names of 1 to {MAX_COLUMN} printable characters.")
        encoding = self.encoding.strip() or "auto"
        try:
            encoding = encoding if encoding == "auto" else declared(encoding)
        except UserError as error:
            raise invalid("encoding", f"{error} {error.hint}") from None
        if not self.split.isprintable() or len(self.split) > 100:
            raise invalid("split", "Use at most 100 printable characters.")
        return Options(
            self.format or "auto", dict(self.columns), self.skip_bad_lines, limits(), encoding, self.split.strip()
        )


def limits() -> Limits:
    """What this installation takes."""
    return Limits(
        settings.MAX_UPLOAD_BYTES, settings.MAX_DATASET_ROWS, settings.MAX_LINE_BYTES, settings.MAX_UNPACKED_BYTES
    )


@contextmanager
def received(file: File | None, reading: Reading, workspace: Workspace, by: Actor) -> Iterator[Incoming]:
    """The file or place, checked as far as seconds allow, for the transaction that makes its version.

    An upload is gone at the end, and what was stored of it too if there was an error; an `Upload` that was passed in
    survives an error. Raises Invalid that names the field or the line, TooLarge.
    """
    options = reading.options()
    if isinstance(file, Uri):
        yield _from_elsewhere(file, options)
        return
    if isinstance(file, Upload):
        upload = file
    else:
        upload = uploads.take(file) if isinstance(file, Path) else uploads.receive(file)
    try:
        incoming = _stored(upload, options, workspace, by, move=upload is not file)
        try:
            yield incoming
        except BaseException:
            incoming.drop()
            raise
    except BaseException:
        if upload is not file:
            upload.forget()
        raise
    upload.forget()


def check(path: Path, options: Options, name: str) -> None:
    """Read a small file through, a large one's first part. Raises Invalid with what the job would say."""
    try:
        Importing(path, options, name=name, up_to=CHECKED_AT_ONCE).check()
    except UserError as error:
        raise Invalid(errors={error.field or "file": [f"{error} {error.hint}".strip()]}) from error
    except UnknownPlugin as error:
        raise invalid("format", str(error)) from None


def _stored(upload: Upload, options: Options, workspace: Workspace, by: Actor, *, move: bool) -> Incoming:
    """The file in the artifact store, where a worker on any host finds it."""
    check(upload.path, options, upload.name)
    stored = artifacts.upload_tree(upload.folder, workspace=workspace, kind="upload", created_by=by.label, move=move)
    files = [e for e in stored.manifest if e["path"] == import_rows.SOURCE]
    return Incoming(
        import_rows.name,
        import_rows.Params(**_params(options, upload.name)),
        {"source": stored},
        {
            "source_name": upload.name,
            "source_bytes": sum(entry["size"] for entry in stored.manifest),
            "source_sha256": files[0]["sha256"] if files else stored.digest,
        },
        stored,
    )


def _from_elsewhere(uri: Uri, options: Options) -> Incoming:
    """A folder of the operator's is read where it lies; what lies elsewhere is fetched by the job."""
    name = uri.name.rstrip("/").rpartition("/")[2][-255:]
    facts: dict[str, Any] = {"source_name": name, "source_uri": str(uri)}
    if uri.kind == "dir":
        try:
            path = sources.below(settings.DATA_DIR_ROOT, uri.name)
        except UserError as error:
            raise Invalid(errors={"source": [f"{error} {error.hint}".strip()]}) from None
        check(path, options, name)
        params = import_rows.Params(**_params(options, name))
        return Incoming(import_rows.name, params, {"source": str(path)}, {**facts, "source_bytes": size_of(path)})
    where: dict[str, str] = {}
    if uri.kind == "s3":
        _require_bucket(uri)
        where = {"s3_endpoint": settings.S3_ENDPOINT_URL, "s3_region": settings.AWS_REGION}
    return Incoming(fetch_rows.name, fetch_rows.Params(uri=str(uri), **where, **_params(options, name)), {}, facts)


def _require_bucket(uri: Uri) -> None:
    """The installation's key may open more than its users should read."""
    if uri.bucket not in settings.DATA_S3_BUCKETS:
        known = ", ".join(settings.DATA_S3_BUCKETS) or "none"
        why = f"Rows are not imported from the bucket {uri.bucket}; an operator allows {known} (DATA_S3_BUCKETS)."
        raise invalid("source", why)


def _params(options: Options, name: str) -> dict[str, Any]:
    return {
        "format": options.format,
        "columns": options.columns,
        "skip_bad_lines": options.skip_bad_lines,
        "encoding": options.encoding,
        "split": options.split,
        "source_name": name,
        "max_bytes": options.limits.bytes,
        "max_rows": options.limits.rows,
        "max_line_bytes": options.limits.line_bytes,
        "max_unpacked_bytes": options.limits.unpacked_bytes,
    }
