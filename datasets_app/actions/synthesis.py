"""Versions that a model writes: launched, and what follows when the job ends."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from datasets_app.actions import endings
from datasets_app.actions.preparations import KEPT_OUT, named
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.preparing import parse, parts_of
from project.contracts.runs import UserError
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, audit, edges
from project.kernel.access import Actor
from project.kernel.errors import invalid
from project.kernel.models import Artifact, Workspace
from project.kernel.references import check_name


@transaction.atomic
def launch(
    recipe: str,
    params: Mapping[str, Any],
    *,
    to: str,
    workspace: Workspace,
    by: Actor,
    inputs: Mapping[str, jobs.Input],
    queue: str,
    source: DatasetVersion | None = None,
    is_parent: bool = False,
) -> DatasetVersion:
    """Let a model write the next version of the data set `to`, which is made where it is new. `version.job_id` does it.

    `source` are the documents, examples or rows it starts from; `is_parent`: the version has their rows too. Raises
    Invalid with the field.
    """
    access.require(by, "dataset.create", workspace)
    dataset = named(workspace, check_name(to, field="to"), by=by)
    version = DatasetVersion.objects.create(
        workspace=workspace,
        created_by=by.label,
        dataset=dataset,
        number=dataset.next_number(),
        operation=recipe,
        parent=source if is_parent else None,
    )
    job = jobs.launch(
        recipe,
        params,
        workspace=workspace,
        by=by,
        title=f"Write {version} with {params.get('writer') or 'a model'}",
        inputs={**inputs, **({"source": source.artifact} if source and source.artifact else {})},
        subject=version,
        queue=queue,
        verb="dataset.create",
    )
    version.job_id = job.pk
    version.save(update_fields=["job_id"])
    Dataset.objects.filter(pk=dataset.pk).update(updated_at=timezone.now())
    audit.record("dataset.version_added", version, by=by, recipe=recipe, writer=str(params.get("writer", "")))
    if source:
        edges.link(source, "written from", version, workspace=workspace)
    endings.tell(version)
    return version


def require_not_held_out(version: DatasetVersion, *, field: str) -> None:
    """Raises Invalid for the part of a split that models are measured on, and for what was made from one or mixed with
    one. What its rows were kept out of is none."""
    left, seen = [version], {version.pk}
    while left:
        one = left.pop()
        if one.part and one.part != _learned_part(one):
            raise invalid(
                field, f"{version} is held out (part '{one.part}'): a model would learn from what it is measured on."
            )
        sources = [
            edge.source_id
            for edge in edges.upstream(one)
            if edge.source_kind == "datasetversion" and edge.relation != KEPT_OUT
        ]
        of_edges = DatasetVersion.objects.filter(workspace=version.workspace, pk__in=sources)
        for source in (*of_edges.select_related("parent"), *([one.parent] if one.parent else [])):
            if source.pk not in seen:
                seen.add(source.pk)
                left.append(source)


def _learned_part(version: DatasetVersion) -> str:
    """The part of its split that models learn from: the first; empty where the steps can't be read any more."""
    try:
        return next(iter(parts_of(parse(version.steps))), version.part)
    except UserError:
        return ""


def written(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """The rows are stored: the version is ready. Runs in the transaction that writes *succeeded*."""
    return endings.ready(job, result, artifact, relation="wrote")


def not_written(job: Job) -> None:
    """The job failed or was cancelled: say why."""
    endings.failed(job, otherwise="It was cancelled.")


def tried_again(old: Job, new: Job) -> None:
    """A person's retry. Raises Conflict when there is nothing left to try."""
    endings.again(old, new, gone="What it was to be made from has been deleted.")


__all__ = ["launch", "not_written", "tried_again", "written"]
