"""Preflights: see what a base model would learn from a data set, before it is trained."""

from typing import Any

from django.db import transaction

from datasets_app.actions import datasets
from datasets_app.models import Dataset, DatasetVersion
from project.contracts.rows import RowKind
from project.jobs.actions import jobs
from project.jobs.models import Job, JobState
from project.kernel import access, audit, edges
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid, invalid
from project.kernel.models import Artifact
from registry.models import ModelVersion
from training.engine.recipes import preflight, token_lengths
from training.models import Preflight
from training.planning import files_of, has_template, no_template, unanswerable
from training.queries import preflights_with_all

LENGTHS = range(16, 1_048_577)  # tokens
DEFAULT_LENGTH: int = preflight.PreflightParams.model_fields["max_seq_length"].default


@transaction.atomic
def launch(base: ModelVersion, data: DatasetVersion, *, by: Actor, max_seq_length: int = DEFAULT_LENGTH) -> Preflight:
    """Start rendering the rows of `data` as `base` would be trained on them; what was asked before is given again.

    Of rows that are neither conversations nor completions it finds the lengths only.
    Raises Invalid at 'base' or 'max_seq_length', NotReady while the data is being imported.
    """
    for target in (base, data):
        access.require(by, "preflight.create", target)
    check(base, data, max_seq_length)
    same = preflights_with_all().filter(base_version=base, data_version=data, max_seq_length=max_seq_length)
    known = same.exclude(job__state__in=(JobState.FAILED, JobState.CANCELLED)).order_by("-id").first()
    if known is not None:
        return known
    made = Preflight(
        workspace=by.workspace,
        created_by=by.label,
        base_version=base,
        data_version=data,
        max_seq_length=max_seq_length,
    )
    recipe, what = (preflight, "Preflight") if made.has_mask else (token_lengths, "Lengths")
    made.job = jobs.launch(
        recipe.name,
        preflight.PreflightParams(max_seq_length=max_seq_length),
        workspace=by.workspace,
        by=by,
        title=f"{what} of {made}"[:200],
        inputs={"base": _files(base), "data": files_of(data)},
        subject=made,
        verb="preflight.create",
    )
    made.save(force_insert=True)
    audit.record("preflight.created", made, by=by, job=str(made.job.pk))
    edges.link(data, "rows of", made.job, workspace=by.workspace)
    return made


def check(base: ModelVersion, data: DatasetVersion, max_seq_length: int) -> None:
    """Raises Invalid for what can't be rendered, and NotReady."""
    if max_seq_length not in LENGTHS:
        raise invalid("max_seq_length", f"must be a whole number from {LENGTHS[0]} to {LENGTHS[-1]:,}")
    context = int(base.facts.get("context") or 0)
    if context and max_seq_length > context:
        raise invalid("max_seq_length", f"must be {context:,} or less, the context of {base}")
    files_of(data)
    if data.row_kind in preflight.eats:
        if wrong := unanswerable(base, data, "base"):
            raise Invalid(errors=wrong)
    elif data.row_kind != RowKind.TEXT and not has_template(base.foundation):
        raise invalid("base", no_template(base.foundation))


def _files(base: ModelVersion) -> Artifact:
    """An adapter is trained on, and renders as, the model below it."""
    return base.foundation.artifact


def finished(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """Outcome handler: keep the counts and the rows to look at, in the transaction that lets the job succeed."""
    if artifact is None:
        raise Conflict("The preflight produced nothing.")
    found = Preflight.objects.select_related("data_version", "base_version").filter(job=job).first()
    if found is None:
        raise Conflict("Its data set or its model has been deleted.")
    found.result, found.views = result, artifact
    found.save(update_fields=["result", "views"])
    share = found.learned_share
    learned = {} if share is None else {"learned_share": round(share, 4)}
    return {"preflight": str(found.pk), "lost_rows": found.lost_rows, **learned}


def forget(dataset: Dataset) -> None:
    """Its rows leave with it. Raises Conflict while one of its versions is being looked at."""
    for found in preflights_with_all().filter(data_version__dataset=dataset):
        if not found.job.is_terminal:
            raise Conflict(f"{found.data_version} is being looked at. Cancel the job '{found.job.title}' first.")
        views, found.views = found.views, None
        found.delete()
        if views is not None:
            datasets.discard(views)


def retried(old: Job, new: Job) -> None:
    """Outcome handler: a person's retry is a preflight of its own."""
    found = Preflight.objects.filter(job=old).first()
    if found is None:
        raise Conflict("Its data set or its model has been deleted.")
    again = Preflight.objects.create(
        workspace=found.workspace,
        created_by=new.created_by,
        job=new,
        base_version_id=found.base_version_id,
        data_version_id=found.data_version_id,
        max_seq_length=found.max_seq_length,
    )
    new.subject_id = str(again.pk)
    new.save(update_fields=["subject_id"])
