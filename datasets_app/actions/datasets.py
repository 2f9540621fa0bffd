"""What people do with data sets: bring files in, describe, delete, and name a version."""

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError, RestrictedError
from django.utils import timezone

from datasets_app.incoming import File, Incoming, Reading, received
from datasets_app.models import Dataset, DatasetVersion, VersionState
from datasets_app.queries import versions_with_all
from project.contracts.events import FailureClass
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, artifacts, audit, edges, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict, NotFound, NotReady, invalid
from project.kernel.models import Artifact, Workspace
from project.kernel.references import Reference, check_name, parse

MAX_DESCRIPTION = 5_000  # characters


def create(
    workspace: Workspace,
    name: str,
    file: File | None,
    *,
    by: Actor,
    description: str = "",
    columns: Mapping[str, str] | None = None,
    **reading: Any,
) -> DatasetVersion:
    """A new data set with `file` as its first version, which is imported by a job (`version.job_id`).

    `file` is an upload, a path of this host, or the place of its rows. `columns` maps parts of a row to columns, as in
    {"prompt": "question", "completion": "label"}; `reading` is the rest of `incoming.Reading`. Raises Invalid that
    names the field or the line, Conflict for a taken name, TooLarge. Then nothing is left behind; an `Upload` that was
    passed in stays the caller's.
    """
    access.require(by, "dataset.create", workspace)
    name = check_name(name)
    description = _description(description)
    if Dataset.objects.filter(workspace=workspace, name=name).exists():
        raise _taken(name)
    try:
        with received(file, Reading(columns or {}, **reading), workspace, by) as incoming, transaction.atomic():
            dataset = Dataset(workspace=workspace, created_by=by.label, name=name, description=description)
            dataset.save(force_insert=True)
            audit.record("dataset.created", dataset, by=by)
            return _launch(dataset, incoming, by=by)
    except IntegrityError:
        raise _taken(name) from None


def add_version(
    dataset: Dataset, file: File | None, *, by: Actor, columns: Mapping[str, str] | None = None, **reading: Any
) -> DatasetVersion:
    """Import `file` as the next version. Raises as `create` does."""
    access.require(by, "dataset.create", dataset)
    how = Reading(columns or {}, **reading)
    with received(file, how, dataset.workspace, by) as incoming, transaction.atomic():
        return _launch(dataset, incoming, by=by)


def _launch(dataset: Dataset, incoming: Incoming, *, by: Actor) -> DatasetVersion:
    if incoming.stored is not None:
        incoming.stored.save(force_insert=True)
    version = DatasetVersion.objects.create(
        workspace=dataset.workspace,
        created_by=by.label,
        dataset=dataset,
        number=dataset.next_number(),
        columns=incoming.params.columns,
        skip_bad_lines=incoming.params.skip_bad_lines,
        upload=incoming.stored,
        **incoming.facts,
    )
    job = jobs.launch(
        incoming.recipe,
        incoming.params,
        workspace=dataset.workspace,
        by=by,
        title=f"Import {version}",
        inputs=incoming.inputs,
        subject=version,
        verb="dataset.create",
    )
    version.job_id = job.pk
    version.save(update_fields=["job_id"])
    Dataset.objects.filter(pk=dataset.pk).update(updated_at=timezone.now())
    source = version.source_uri or version.source_name
    audit.record("dataset.version_added", version, by=by, source=source, sha256=version.source_sha256)
    _tell(version)
    return version


# --- how the job ends


def imported(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """The rows are stored: the version is ready. Runs in the transaction that writes *succeeded*."""
    version = DatasetVersion.objects.select_related("dataset", "workspace").get(pk=job.subject_id)
    assert artifact is not None  # noqa: S101  (the recipe always stores one)
    with artifacts.open_file(artifact, "report.json") as file:
        report = json.load(file)
    version.source_uri = result.get("source_uri", version.source_uri)  # with the commit that was fetched
    version.source_bytes = result.get("source_bytes", version.source_bytes)
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
    if version.upload_id is None and not version.source_uri:
        raise Conflict("The uploaded file was removed when the import ended. Upload it again as a new version.")
    version.state, version.failure, version.job_id = VersionState.IMPORTING, "", new.pk
    version.save(update_fields=["state", "failure", "job_id"])
    _tell(version)


def _discard_upload(version: DatasetVersion) -> None:
    upload, version.upload = version.upload, None
    version.save(update_fields=["upload"])
    if upload is not None:
        discard(upload)


def discard(artifact: Artifact) -> None:
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


_LEAVING: list[Callable[[Dataset], None]] = []


def before_delete(call: Callable[[Dataset], None]) -> None:
    """Other apps remove what they know of a data set's rows, or raise Conflict, in the transaction that deletes it."""
    if call not in _LEAVING:
        _LEAVING.append(call)


@transaction.atomic
def delete(dataset: Dataset, *, by: Actor) -> None:
    """Remove a data set, its versions and their files. Raises Conflict while something uses or imports it."""
    access.require(by, "dataset.delete", dataset)
    versions = list(dataset.versions.select_related("artifact", "upload"))
    busy = next((version for version in versions if version.is_importing), None)
    if busy is not None:
        raise Conflict(f"{dataset.name}:{busy.number} is being imported. Cancel its job first.")
    for leave in _LEAVING:
        leave(dataset)
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
                discard(artifact)
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
