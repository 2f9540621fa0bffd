"""The record of who did what. Written in the same transaction as the change; never edited."""

from typing import Any

from django.db import models

from project.kernel.access import Actor
from project.kernel.models import AuditEntry


def record(verb: str, obj: models.Model, *, by: Actor, **data: Any) -> AuditEntry:
    """Write one entry. `data` holds small JSON values; never secrets, never people's texts."""
    return AuditEntry.objects.create(
        workspace=by.workspace,
        actor_kind=by.kind,
        actor_id=by.identity,
        actor_label=by.label[:200],
        verb=verb,
        object_kind=obj._meta.model_name or "",
        object_id=str(obj.pk),
        object_label=str(obj)[:200],
        data=data,
    )
