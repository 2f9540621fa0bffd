"""What people do with data sets: bring files in, describe, delete, and name a version."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError, RestrictedError
from django.utils import timezone

from datasets_app import uploads
from datasets_app.importing import Importing, Options
from datasets_app.models import Dataset, DatasetVersion, VersionState
from datasets_app.queries import versions_with_all
from datasets_app.reading import Limits
from datasets_app.recipes import import_rows as recipe
from datasets_app.recipes.import_rows import SOURCE
from datasets_app.uploads import Upload
from project.contracts.events import FailureClass
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import UserError
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, artifacts, audit, edges, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid, NotFound, NotReady, invalid
from project.kernel.models import Artifact, Workspace
from project.kernel.references import Reference, check_name, parse

CHECKED_AT_ONCE = 32 * 1024**2  # bytes: what takes seconds to read through is checked before it is accepted
MAX_DESCRIPTION = 5_000  # characters
MAX_COLUMN = 500  # characters

File = Upload | UploadedFile | Path


def create(
    workspace: Workspace,
    name: str,
    file: File | None,
    *,
    by: Actor,
    description: str = "",
    columns: Mapping[str, str] | None = None,
    skip_bad_lines: bool = False,
    format: str = "auto",
) -> DatasetVersion:
    """A new data set with `file` as its first version, which is imported by a job (`version.job_id`).

    `columns` maps parts of a row to columns, as in {"prompt": "question", "completion": "label"}. Raises Invalid that
    names the field or the line, Conflict for a taken name, TooLarge. Then nothing is left behind; an `Upload` that was
    passed in stays the caller's.
    """
    access.require(by, "dataset.create", workspace)
    name = check_name(name)
    description = _description(description)
    if Dataset.objects.filter(workspace=workspace, name=name).exists():
        raise _taken(name)
    options = _options(columns, skip_bad_lines, format)
    with _received(file) as upload:
        source = _checked_and_stored(upload, options, workspace, by, move=not isinstance(file, Upload))
        try:
            with transaction.atomic():
                dataset = Dataset(workspace=workspace, created_by=by.label, name=name, description=description)
                dataset.save(force_insert=True)
                audit.record("dataset.created", dataset, by=by)
                return _launch(dataset, source, upload, options, by=by)
        except BaseException as error:
            _drop_files(source)
            if isinstance(error, IntegrityError):
                raise _taken(name) from None
            raise


def add_version(
    dataset: Dataset,
    file: File | None,
    *,
    by: Actor,
    columns: Mapping[str, str] | None = None,
    skip_bad_lines: bool = False,
    format: str = "auto",
) -> DatasetVersion:
    """Import `file` as the next version. Raises as `create` does."""
    access.require(by, "dataset.create", dataset)
    options = _options(columns, skip_bad_lines, format)
    with _received(file) as upload:
        source = _checked_and_stored(upload, options, dataset.workspace, by, move=not isinstance(file, Upload))
        try:
            with transaction.atomic():
                return _launch(dataset, source, upload, options, by=by)
        except BaseException:
            _drop_files(source)
            raise


@contextmanager
def _received(file: File | None) -> Iterator[Upload]:
    """The file as an upload that is gone at the end; one that was passed in survives an error."""
    if isinstance(file, Upload):
        yield file
        file.forget()
        return
    upload = uploads.take(file) if isinstance(file, Path) else uploads.receive(file)
    try:
        yield upload
    finally:
        upload.forget()


def _options(columns: Mapping[str, str] | None, skip_bad_lines: bool, format: str) -> Options:
    limits = Limits(settings.MAX_UPLOAD_BYTES, settings.MAX_DATASET_ROWS, settings.MAX_LINE_BYTES)
    for part, column in (columns or {}).items():
        if not part or not column or not f"{part}{column}".isprintable() or len(column) > MAX_COLUMN:
            raise invalid("columns", f"Use names of 1 to {MAX_COLUMN} printable characters.")
    return Options(format or "auto", dict(columns or {}), skip_bad_lines, limits)


def check(upload: Upload, options: Options) -> None:
    """Read a small file through, a large one's first part. Raises Invalid with what the job would say."""
    try:
        Importing(upload.path, options, name=upload.name).check(up_to=CHECKED_AT_ONCE)
    except UserError as error:
        raise Invalid(errors={error.field or "file": [f"{error} {error.hint}".strip()]}) from error
    except UnknownPlugin as error:
        raise invalid("format", str(error)) from None


def _checked_and_stored(upload: Upload, options: Options, workspace: Workspace, by: Actor, *, move: bool) -> Artifact:
    """The file in the artifact store, where a worker on any host finds it. Its row is not saved yet."""
    check(upload, options)
    return artifacts.upload_tree(upload.folder, workspace=workspace, kind="upload", created_by=by.label, move=move)


def _launch(dataset: Dataset, source: Artifact, upload: Upload, options: Options, *, by: Actor) -> DatasetVersion:
    source.save(force_insert=True)
    entry = next(entry for entry in source.manifest if entry["path"] == SOURCE)
    version = DatasetVersion.objects.create(
        workspace=dataset.workspace,
        created_by=by.label,
        dataset=dataset,
        number=dataset.next_number(),
        source_name=upload.name,
        source_bytes=entry["size"],
        source_sha256=entry["sha256"],
        columns=options.columns,
        skip_bad_lines=options.skip_bad_lines,
        upload=source,
    )
    params = recipe.Params(
        format=options.format,
        columns=options.columns,
        skip_bad_lines=options.skip_bad_lines,
        source_name=upload.name,
        max_bytes=options.limits.bytes,
        max_rows=options.limits.rows,
        max_line_bytes=options.limits.line_bytes,
    )
    job = jobs.launch(
        recipe.name,
        params,
        workspace=dataset.workspace,
        by=by,
        title=f"Import {version}",
        inputs={"source": source},
        subject=version,
        verb="dataset.create",
    )
    version.job_id = job.pk
    version.save(update_fields=["job_id"])
    Dataset.objects.filter(pk=dataset.pk).update(updated_at=timezone.now())
    audit.record("dataset.version_added", version, by=by, source=upload.name, sha256=version.source_sha256)
    _tell(version)
    return version


# --- how the job ends


def imported(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """The rows are stored: the version is ready. Runs in the transaction that writes *succeeded*."""
    version = DatasetVersion.objects.select_related("dataset", "workspace").get(pk=job.subject_id)
    assert artifact is not None  # noqa: S101  (the recipe always stores one)
    with artifacts.open_file(artifact, "report.json") as file:
        report = json.load(file)
    version.become_ready(artifact=artifact, report=report, result=result, at=timezone.now())
    by = Actor.system("import", version.workspace)
    edges.link(job, "imported", version, workspace=version.workspace)
    audit.record("dataset.version_ready", version, by=by, rows=version.rows, digest=version.digest)
    _discard_upload(version)
    _tell(version)
    return {"dataset": str(version.dataset_id), "dataset_version": str(version.pk), "reference": str(version)}


def not_imported(job: Job) -> None:
    """The job failed or was cancelled: say why. The file is kept while trying again can help."""
    version = DatasetVersion.objects.select_related("dataset", "workspace").filter(pk=job.subject_id).first()
    if version is None or not version.is_importing:
        return
    why = f"{job.failure_message} {job.failure_hint}".strip() or "The import was cancelled."
    version.become_failed(why, at=timezone.now())
    by = Actor.system("import", version.workspace)
    audit.record("dataset.version_failed", version, by=by, failure=job.failure_class or "cancelled")
    if job.failure_class in ("", FailureClass.USER_ERROR):
        _discard_upload(version)
    _tell(version)


def tried_again(old: Job, new: Job) -> None:
    """A person's retry. Raises Conflict when there is nothing left to try."""
    version = DatasetVersion.objects.select_related("dataset").filter(pk=old.subject_id).first()
    if version is None:
        raise Conflict("Its data set has been deleted.")
    if version.is_ready:
        raise Conflict(f"{version} is ready; there is nothing to try again.")
    if version.upload_id is None:
        raise Conflict("The uploaded file was removed when the import ended. Upload it again as a new version.")
    version.state, version.failure, version.job_id = VersionState.IMPORTING, "", new.pk
    version.save(update_fields=["state", "failure", "job_id"])
    _tell(version)


def _discard_upload(version: DatasetVersion) -> None:
    upload, version.upload = version.upload, None
    version.save(update_fields=["upload"])
    if upload is not None:
        _discard(upload)


def _discard(artifact: Artifact) -> None:
    """Remove an artifact's row now and its files once that is committed."""
    Job.objects.filter(artifact=artifact).update(artifact=None)
    artifact.delete()
    transaction.on_commit(lambda: _drop_files(artifact))


def _drop_files(artifact: Artifact) -> None:
    artifacts.delete_files(artifact.key, [entry["path"] for entry in artifact.manifest])


# --- what people change


@transaction.atomic
def edit(dataset: Dataset, *, by: Actor, name: str | None = None, description: str | None = None) -> Dataset:
    """Rename or describe a data set. Job files that use the old name no longer find it."""
    access.require(by, "dataset.edit", dataset)
    before = dataset.name
    if name is not None:
        dataset.name = check_name(name)
    if description is not None:
        dataset.description = _description(description)
    try:
        with transaction.atomic():
            dataset.save(update_fields=["name", "description", "updated_at"])
    except IntegrityError:
        raise _taken(dataset.name) from None
    audit.record("dataset.edited", dataset, by=by, **({"renamed_from": before} if before != dataset.name else {}))
    live.publish(f"workspace.{dataset.workspace_id}", kind="dataset", id=str(dataset.pk))
    return dataset


@transaction.atomic
def delete(dataset: Dataset, *, by: Actor) -> None:
    """Remove a data set, its versions and their files. Raises Conflict while something uses or imports it."""
    access.require(by, "dataset.delete", dataset)
    versions = list(dataset.versions.select_related("artifact", "upload"))
    busy = next((version for version in versions if version.is_importing), None)
    if busy is not None:
        raise Conflict(f"{dataset.name}:{busy.number} is being imported. Cancel its job first.")
    audit.record("dataset.deleted", dataset, by=by, digests=[version.digest for version in versions if version.digest])
    key = dataset.pk
    try:
        with transaction.atomic():
            dataset.delete()
    except (ProtectedError, RestrictedError) as error:
        objects = error.protected_objects if isinstance(error, ProtectedError) else error.restricted_objects
        users = sorted({str(obj._meta.verbose_name) for obj in objects})
        raise Conflict(f"{dataset.name} is in use by: {', '.join(users)}. It can't be deleted.") from None
    for version in versions:
        for artifact in (version.artifact, version.upload):
            if artifact is not None:
                _discard(artifact)
    live.publish(f"workspace.{by.workspace.pk}", kind="dataset", id=str(key))


def _description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION:
        raise invalid("description", f"Use at most {MAX_DESCRIPTION:,} characters.")
    return text.replace("\x00", "").strip()


def _taken(name: str) -> Conflict:
    return Conflict(
        errors={"name": [f"There is a data set '{name}' already. Add a version to it, or choose another name."]}
    )


def _tell(version: DatasetVersion) -> None:
    live.publish(f"workspace.{version.workspace_id}", kind="dataset", id=str(version.dataset_id))


# --- from what people write to what they mean


def resolve(workspace: Workspace, reference: str, *, field: str = "data") -> DatasetVersion:
    """The ready version that `reference` names: `name` (the newest ready one), `name:3`, or an id of either.

    Raises Invalid for what is no reference, NotFound (with the nearest name) and NotReady (importing, failed, none).
    """
    version = find_version(workspace, reference, field=field)
    require_ready(version)
    return version


def find_version(workspace: Workspace, reference: str, *, field: str = "data") -> DatasetVersion:
    """Like `resolve`, but in any state; of a name the newest ready version, else the newest."""
    wanted = parse(reference, field=field)
    if wanted.label:
        raise invalid(field, f"Data sets have no stages or aliases. Write {wanted.name} or {wanted.name}:1.")
    version = versions_with_all().filter(workspace=workspace, pk=wanted.id).first() if wanted.id else None
    if version is not None:
        return version
    dataset = find_dataset(workspace, wanted)
    versions = versions_with_all().filter(dataset=dataset).order_by("-number")
    if wanted.number is not None:
        version = versions.filter(number=wanted.number).first()
        if version is None:
            newest = f" Its newest is {dataset}:{dataset.last_number}." if dataset.last_number else ""
            raise NotFound(f"{dataset} has no version {wanted.number}.{newest}")
        return version
    version = versions.filter(state=VersionState.READY).first() or versions.first()
    if version is None:
        raise NotReady(f"{dataset} has no version yet. Upload a file to it.")
    return version


def require_ready(version: DatasetVersion) -> None:
    """Raises NotReady with the state and the reason."""
    if version.is_importing:
        raise NotReady(f"{version} is still being imported.")
    if not version.is_ready:
        raise NotReady(f"{version} was not imported. {version.failure}")


def find_dataset(workspace: Workspace, wanted: Reference | str, *, field: str = "data") -> Dataset:
    """The data set of this name or id. Raises NotFound, with the nearest name."""
    reference = parse(wanted, field=field) if isinstance(wanted, str) else wanted
    datasets = Dataset.objects.filter(workspace=workspace)
    dataset = datasets.filter(pk=reference.id).first() if reference.id else datasets.filter(name=reference.name).first()
    if dataset is not None:
        return dataset
    if reference.id:
        raise NotFound(f"There is no data set or version {reference.id}.")
    known = list(datasets.order_by("-updated_at").values_list("name", flat=True)[:2000])
    near = difflib.get_close_matches(reference.name, known, n=1, cutoff=0.5)
    if near:
        raise NotFound(f"There is no data set '{reference.name}'. Did you mean '{near[0]}'?")
    advice = (
        f"Known: {', '.join(known[:10])}." if known else "Upload one, or: manage.py import_dataset FILE --name NAME"
    )
    raise NotFound(f"There is no data set '{reference.name}'. {advice}")
