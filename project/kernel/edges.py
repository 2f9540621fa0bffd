"""Lineage across apps: what was made from what."""

from django.db import models

from project.kernel.models import Edge, Workspace


def link(source: models.Model, relation: str, target: models.Model, *, workspace: Workspace) -> Edge:
    """Say that `target` was made from `source` (relation: 'trained', 'evaluated', 'base of', ...). Idempotent."""
    edge, _ = Edge.objects.get_or_create(
        source_kind=source._meta.model_name or "",
        source_id=str(source.pk),
        relation=relation,
        target_kind=target._meta.model_name or "",
        target_id=str(target.pk),
        defaults={"workspace": workspace},
    )
    return edge


def upstream(obj: models.Model) -> list[Edge]:
    """The edges into `obj`: what it was made from."""
    return list(Edge.objects.filter(target_kind=obj._meta.model_name, target_id=str(obj.pk)).order_by("id"))


def downstream(obj: models.Model) -> list[Edge]:
    """The edges out of `obj`: what was made from it."""
    return list(Edge.objects.filter(source_kind=obj._meta.model_name, source_id=str(obj.pk)).order_by("id"))
