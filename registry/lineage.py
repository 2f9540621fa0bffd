"""What a version was made from, and what was made from it: the edges one step away, with names and links."""

from dataclasses import dataclass
from functools import cache

from django.apps import apps
from django.db import models

from project.kernel import edges
from project.kernel.models import Edge
from registry.models import ModelVersion


@dataclass(frozen=True)
class Relative:
    """One end of an edge. `label` is empty when the object is gone, `url` when it has no page."""

    relation: str
    kind: str
    id: str
    label: str
    url: str


@dataclass(frozen=True)
class Lineage:
    made_from: tuple[Relative, ...]
    led_to: tuple[Relative, ...]


def of(version: ModelVersion) -> Lineage:
    """One step in both directions. One query per kind of object, however many there are."""
    above = [(edge, edge.source_kind, edge.source_id) for edge in edges.upstream(version)]
    below = [(edge, edge.target_kind, edge.target_id) for edge in edges.downstream(version)]
    return Lineage(_relatives(above), _relatives(below))


def _relatives(ends: list[tuple[Edge, str, str]]) -> tuple[Relative, ...]:
    known: dict[tuple[str, str], models.Model] = {}
    for kind in {kind for _, kind, _ in ends}:
        model = _models().get(kind)
        if model is not None:
            ids = [key for _, other, key in ends if other == kind]
            rows = model._default_manager.filter(pk__in=ids)
            related = [
                field.name for field in model._meta.fields if field.name in ("model", "dataset")
            ]  # in their names
            known |= {(kind, str(row.pk)): row for row in rows.select_related(*related)}
    found = []
    for edge, kind, key in ends:
        row = known.get((kind, key))
        url = row.get_absolute_url() if row is not None and hasattr(row, "get_absolute_url") else ""
        words = str(_models()[kind]._meta.verbose_name) if kind in _models() else kind
        found.append(Relative(edge.relation, words, key, str(row) if row is not None else "", url))
    return tuple(found)


@cache
def _models() -> dict[str, type[models.Model]]:
    """Every model by the name that edges use. Edges point to apps above this one, which it can't import."""
    return {model._meta.model_name or "": model for model in apps.get_models()}
