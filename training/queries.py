"""Which rows: evaluations with everything that showing them needs, and what forms offer."""

from django.db.models import QuerySet

from datasets_app.models import DatasetVersion, VersionState
from project.kernel import access
from project.kernel.access import Actor
from registry.models import ModelVersion, Stage, VersionKind
from training.models import Evaluation, Preflight

OFFERED = 500  # choices in one list

Choices = list[tuple[str, str]]


def evaluations_with_all() -> QuerySet[Evaluation]:
    """Evaluations with their job, version, data set and answers, in one query."""
    return Evaluation.objects.select_related(
        "job", "version__model", "version__base", "data_version__dataset", "answers"
    ).defer("data_version__report")


def preflights_with_all() -> QuerySet[Preflight]:
    """Preflights with their job, base, data set and rows to look at, in one query."""
    return Preflight.objects.select_related(
        "job", "base_version__model", "base_version__base", "data_version__dataset", "views"
    ).defer("data_version__report")


def versions_to_offer(by: Actor, *, full_only: bool = False) -> Choices:
    """(id, label) of what can be trained or measured, by name, newest version first."""
    rows = access.visible(ModelVersion.objects.exclude(stage=Stage.ARCHIVED), by).select_related("model")
    if full_only:
        rows = rows.filter(kind=VersionKind.FULL)
    return [(str(version.pk), _labelled(version)) for version in rows.order_by("model__name", "-number")[:OFFERED]]


def _labelled(version: ModelVersion) -> str:
    return f"{version} (production)" if version.stage == Stage.PRODUCTION else str(version)


def data_to_offer(by: Actor) -> Choices:
    """(id, label) of data set versions that are ready, by name, newest first."""
    rows = access.visible(DatasetVersion.objects.filter(state=VersionState.READY), by)
    rows = rows.select_related("dataset").only("dataset__name", "number", "rows", "row_kind")
    return [
        (str(data.pk), f"{data} ({data.rows:,} {data.row_kind} rows)")
        for data in rows.order_by("dataset__name", "-number")[:OFFERED]
    ]
