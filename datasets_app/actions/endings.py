"""How a version that a job makes from rows ends: ready, failed, or tried again. Preparing and writing share it."""

import json
from typing import Any

from django.utils import timezone

from datasets_app.models import DatasetVersion, VersionState
from project.jobs.models import Job
from project.kernel import artifacts, audit, edges, live
from project.kernel.access import Actor
from project.kernel.errors import Conflict
from project.kernel.models import Artifact


def ready(job: Job, result: dict[str, Any], artifact: Artifact | None, *, relation: str) -> dict[str, Any]:
    """The rows are stored: the version is ready. Runs in the transaction that writes *succeeded*."""
    version = DatasetVersion.objects.select_related("dataset", "workspace").get(pk=job.subject_id)
    assert artifact is not None  # noqa: S101  (the recipe always stores one)
    with artifacts.open_file(artifact, "report.json") as file:
        report = json.load(file)
    version.become_ready(artifact=artifact, report=report, result=result, at=timezone.now())
    by = Actor.system(job.recipe, version.workspace)
    edges.link(job, relation, version, workspace=version.workspace)
    audit.record("dataset.version_ready", version, by=by, rows=version.rows, digest=version.digest)
    tell(version)
    return {"dataset": str(version.dataset_id), "dataset_version": str(version.pk), "reference": str(version)}


def failed(job: Job, *, otherwise: str) -> None:
    """The job failed or was cancelled: say why, or `otherwise`."""
    version = DatasetVersion.objects.select_related("dataset", "workspace").filter(pk=job.subject_id).first()
    if version is None or not version.is_importing:
        return
    why = f"{job.failure_message} {job.failure_hint}".strip() or otherwise
    version.become_failed(why, at=timezone.now())
    by = Actor.system(job.recipe, version.workspace)
    audit.record("dataset.version_failed", version, by=by, failure=job.failure_class or "cancelled")
    tell(version)


def again(old: Job, new: Job, *, gone: str) -> None:
    """A person's retry: the same version is made once more.

    Raises Conflict when there is nothing left to try; `gone` says that what it was made from is no more.
    """
    version = DatasetVersion.objects.select_related("dataset").filter(pk=old.subject_id).first()
    if version is None:
        raise Conflict("Its data set has been deleted.")
    if version.is_ready:
        raise Conflict(f"{version} is ready; there is nothing to try again.")
    needed = {given["artifact"] for given in new.inputs.values() if "artifact" in given}
    if Artifact.objects.filter(pk__in=needed).count() < len(needed):
        raise Conflict(gone)
    version.state, version.failure, version.job_id = VersionState.IMPORTING, "", new.pk
    version.save(update_fields=["state", "failure", "job_id"])
    tell(version)


def tell(version: DatasetVersion) -> None:
    live.publish(f"workspace.{version.workspace_id}", kind="dataset", id=str(version.dataset_id))
