"""How versions did: written when an evaluation ends, read for pages, gates and comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction

from project.kernel import access, audit
from project.kernel.access import Actor
from registry.models import ModelVersion, Score

# Where less is more. Everything else counts upwards.
LOWER_IS_BETTER = frozenset({"perplexity", "loss", "eval_loss", "bits_per_byte", "calibration_error", "latency"})
MAIN = ("exact_match", "accuracy", "f1", "macro_f1")
UNITS = {"latency": "seconds", "latency_p50": "seconds", "latency_p95": "seconds", "tokens_per_second": "tokens/s"}


@transaction.atomic
def record(
    version: ModelVersion,
    scores: Mapping[str, Mapping[str, Any]],
    *,
    data_digest: str,
    by: Actor,
    data_label: str = "",
    job_id: UUID | None = None,
) -> list[Score]:
    """Keep `{metric: {value, low, high, n}}` of one evaluation. `low` and `high` may be absent. Idempotent per job.

    A metric may say `better` ('higher' or 'lower') and `unit` itself; else they are known by its name.
    """
    access.require(by, "version.register", version)
    if job_id and (known := list(Score.objects.filter(version=version, job_id=job_id))):
        return known
    made = Score.objects.bulk_create(
        Score(
            workspace=version.workspace,
            created_by=by.label,
            version=version,
            data_digest=data_digest,
            data_label=data_label,
            metric=metric,
            value=numbers["value"],
            low=numbers.get("low"),
            high=numbers.get("high"),
            n=numbers.get("n") or 0,
            unit=numbers.get("unit") or UNITS.get(metric, ""),
            better=numbers.get("better") or direction(metric),
            job_id=job_id,
        )
        for metric, numbers in scores.items()
    )
    audit.record("version.scored", version, by=by, metrics=sorted(scores), data=data_label or data_digest[:12])
    return made


def direction(metric: str) -> str:
    """Is more better, or less?"""
    lower = metric in LOWER_IS_BETTER or metric.startswith("latency")
    return Score.Better.LOWER if lower else Score.Better.HIGHER


def newest(versions: Sequence[ModelVersion]) -> dict[UUID, list[Score]]:
    """The newest score of each version, data and metric, in one query; sorted by data and metric."""
    found: dict[tuple[UUID, str, str], Score] = {}
    rows = Score.objects.filter(version__in=versions).order_by("evaluated_at", "id")
    for score in rows:
        found[score.version_id, score.data_digest, score.metric] = score
    return _by_version(sorted(found.values(), key=lambda score: (score.data_label, score.data_digest, score.metric)))


def main(found: Sequence[Score]) -> Score | None:
    """The one number that a list shows: the first of the usual ones, else any share."""
    shares = [score for score in found if score.is_share]
    usual = [score for name in MAIN for score in shares if score.metric == name]
    return next(iter(usual or shares), None)


def _by_version(scores: Iterable[Score]) -> dict[UUID, list[Score]]:
    grouped: dict[UUID, list[Score]] = {}
    for score in scores:
        grouped.setdefault(score.version_id, []).append(score)
    return grouped
