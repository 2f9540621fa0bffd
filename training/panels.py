"""What the page of a data set version shows of preflights: its lengths in tokens of base models."""

from typing import Any

from django.urls import reverse

from datasets_app.extensions import Panel
from datasets_app.models import DatasetVersion
from project.kernel.access import Actor
from training.models import Preflight
from training.queries import preflights_with_all

SHOWN = 3  # base models


def token_lengths(version: DatasetVersion, by: Actor) -> Panel | None:
    """The newest preflight of each of the last base models, and where to choose another; None when there is neither."""
    found = newest(version)
    may_look = by.may("preflight.create")
    if not (found or may_look):
        return None
    new = f"{reverse('preflight-new')}?data={version.pk}"
    links = [link(one) for one in found]
    asking = {"what": "lengths in tokens of a base model: POST here", "url": _address(version)}
    context = {"preflights": found, "new_url": new if may_look else ""}
    return Panel("token_lengths", "training/_token_lengths.html", context, tuple(links) or (asking,))


def newest(version: DatasetVersion) -> list[Preflight]:
    """The newest one that has ended well of each of the last SHOWN base models."""
    ended = preflights_with_all().filter(data_version=version, views__isnull=False).order_by("-id")
    of_base: dict[Any, Preflight] = {}
    for one in ended[:50]:
        of_base.setdefault(one.base_version_id, one)
    return list(of_base.values())[:SHOWN]


def link(preflight: Preflight) -> dict[str, Any]:
    """For the report of the version over the API."""
    return {
        "what": "lengths in tokens",
        "base": preflight.base_version.reference,
        "max_seq_length": preflight.max_seq_length,
        "percentiles": preflight.result.get("percentiles", {}),
        "url": reverse("api-preflight-detail", args=[preflight.pk]),
    }


def _address(version: DatasetVersion) -> str:
    return reverse("api-dataset-version-preflight", args=[version.pk])
