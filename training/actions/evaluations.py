"""Evaluations: ask a version the rows of a data set, and keep how it did."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db import transaction

from datasets_app.models import DatasetVersion
from project.contracts.plugins import UnknownPlugin
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, audit, edges
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Invalid
from project.kernel.models import Artifact
from registry.actions import scores
from registry.models import ModelVersion
from training.engine.metrics_registry import METRICS
from training.engine.recipes import evaluate
from training.models import Evaluation
from training.planning import files_of, unanswerable, unknown_metrics

DEFAULT_METRICS: tuple[str, ...] = evaluate.EvaluateParams.model_fields["metrics"].default

LIMITS = range(1, 10_000_001)  # rows


@dataclass(frozen=True)
class Split:
    """The part of a data set that a training run with this share and seed held back."""

    share: float
    seed: int


@transaction.atomic
def launch(
    version: ModelVersion,
    data: DatasetVersion,
    *,
    by: Actor,
    metrics: Sequence[str] = DEFAULT_METRICS,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    split: Split | None = None,
    start: bool = True,
) -> Job:
    """Start measuring `version` on `data` (or on the `split` of it that training held back). Returns the job.

    `job.evaluation` is the Evaluation. Raises Invalid at 'metrics', 'dataset_version', 'limit' …
    """
    for target in (version, data):
        access.require(by, "evaluation.create", target)
    check(version, data, metrics, limit)
    evaluation = Evaluation(
        workspace=by.workspace,
        created_by=by.label,
        version=version,
        data_version=data,
        split=asdict(split) if split else None,
        metrics=list(dict.fromkeys(metrics)),
        limit=limit,
        learned=split is None and has_learned(version, data),
    )
    job = jobs.launch(
        evaluate.name,
        _params(evaluation, limit, max_new_tokens, seed),
        workspace=by.workspace,
        by=by,
        title=f"Evaluate {evaluation}",
        inputs=inputs_of(version, data),
        subject=evaluation,
        start=start,
        verb="evaluation.create",
    )
    evaluation.job = job
    evaluation.save(force_insert=True)
    audit.record("evaluation.created", evaluation, by=by, job=str(job.pk), learned=evaluation.learned)
    edges.link(version, "answers in", job, workspace=by.workspace)
    edges.link(data, "rows of", job, workspace=by.workspace)
    return job


def check(version: ModelVersion, data: DatasetVersion, metrics: Sequence[str], limit: int | None) -> None:
    """Raises Invalid, and NotReady while the data is being imported."""
    wrong = unknown_metrics(list(metrics), "metrics")
    if not metrics:
        wrong["metrics"] = [f"Name at least one of: {', '.join(METRICS.names())}."]
    if limit is not None and limit not in LIMITS:
        wrong["limit"] = [f"must be a whole number from {LIMITS[0]} to {LIMITS[-1]:,}"]
    files_of(data)
    wrong |= unanswerable(version, data, "dataset_version")
    if wrong:
        raise Invalid(errors=wrong)


def has_learned(version: ModelVersion, data: DatasetVersion) -> bool:
    """Did `version`, or the model below it, learn these very rows?"""
    return data.digest in {version.data_digest, version.foundation.data_digest}


def inputs_of(version: ModelVersion, data: DatasetVersion) -> dict[str, Artifact]:
    """What the recipe reads: an adapter comes with its base model."""
    inputs = {"base": version.foundation.artifact, "data": files_of(data)}
    return {**inputs, "adapter": version.artifact} if version.is_adapter else inputs


def _params(evaluation: Evaluation, limit: int | None, longest: int | None, seed: int | None) -> dict[str, Any]:
    chosen = {"limit": limit, "max_new_tokens": longest, "seed": seed}
    params = {name: value for name, value in chosen.items() if value is not None}
    if evaluation.split:
        params |= {"validation_split": evaluation.split["share"], "split_seed": evaluation.split["seed"]}
    return {"metrics": evaluation.metrics, **params}


def finished(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """Outcome handler: keep scores and answers, in the transaction that lets the job succeed."""
    if artifact is None:
        raise Conflict("The evaluation produced no answers.")
    evaluation = Evaluation.objects.select_related("version__model", "data_version__dataset").get(job=job)
    found = {metric: {**numbers, **_about(metric)} for metric, numbers in result["scores"].items()}
    evaluation.scores = [{"metric": metric, **numbers} for metric, numbers in found.items()]
    evaluation.rows = result["rows"]
    evaluation.answers = artifact
    evaluation.save(update_fields=["scores", "rows", "answers"])
    scores.record(
        evaluation.version,
        {metric: {**numbers, "unit": ""} for metric, numbers in found.items()},
        data_digest=evaluation.rows_digest,
        data_label=evaluation.data_label + (" (learned rows)" if evaluation.learned else ""),
        by=Actor.system("evaluation", job.workspace),
        job_id=job.pk,
    )
    edges.link(evaluation.data_version, "measured", evaluation.version, workspace=job.workspace)
    return {"evaluation": str(evaluation.pk), "model_version": str(evaluation.version_id), **_warnings(evaluation)}


def _about(metric: str) -> dict[str, str]:
    try:
        plugin = METRICS.get(metric)
    except UnknownPlugin:  # an extension that was taken away while the job ran
        return {"label": metric, "better": scores.direction(metric), "unit": ""}
    return {"label": plugin.label, "better": plugin.better, "unit": plugin.unit}


def _warnings(evaluation: Evaluation) -> dict[str, list[str]]:
    return {"warnings": [evaluation.warning]} if evaluation.warning else {}


def retried(old: Job, new: Job) -> None:
    """Outcome handler: a person's retry is an evaluation of its own."""
    evaluation = Evaluation.objects.get(job=old)
    again = Evaluation.objects.create(
        workspace=evaluation.workspace,
        created_by=new.created_by,
        job=new,
        version_id=evaluation.version_id,
        data_version_id=evaluation.data_version_id,
        split=evaluation.split,
        metrics=evaluation.metrics,
        limit=evaluation.limit,
        learned=evaluation.learned,
    )
    new.subject_id = str(again.pk)
