"""The record of stages: written with every step, read to know what was in production when."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from project.kernel.access import Actor
from registry.gates import Verdict
from registry.models import ModelVersion, RegisteredModel, Stage, StageChange


def record(
    version: ModelVersion,
    action: str,
    *,
    left: str,
    by: Actor,
    at: datetime | None = None,
    comment: str = "",
    verdicts: Sequence[Verdict] = (),
) -> StageChange:
    """Write what just happened to `version`, in the transaction in which it happened."""
    return StageChange.objects.create(
        workspace=version.workspace,
        model=version.model,
        version=version,
        label=str(version),
        action=action,
        from_stage=left,
        to_stage=version.stage,
        at=at or version.stage_changed_at,
        actor_kind=by.kind,
        actor_id=by.identity,
        actor_label=by.label[:200],
        comment=comment,
        gates=[verdict.as_dict() for verdict in verdicts],
    )


@dataclass(frozen=True)
class InProduction:
    """What was in production at `time`: the step that put it there, and the version if it still exists."""

    time: datetime
    change: StageChange | None
    version: ModelVersion | None


def at(model: RegisteredModel, time: datetime) -> InProduction:
    """What was in production at `time`, from the record that cannot be edited."""
    touching = Q(to_stage=Stage.PRODUCTION) | Q(from_stage=Stage.PRODUCTION)
    change = (
        StageChange.objects.filter(touching, model_id=model.pk, at__lte=time)
        .exclude(from_stage=Stage.PRODUCTION, to_stage=Stage.PRODUCTION)
        .order_by("-id")
        .first()
    )
    if change is None or change.to_stage != Stage.PRODUCTION:
        return InProduction(time, None, None)
    version = (
        ModelVersion.objects.select_related("model", "artifact", "base__model").filter(pk=change.version_id).first()
    )
    return InProduction(time, change, version)
