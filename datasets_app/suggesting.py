"""What is known about a version beside its report, and the suggestions that follow from all of it."""

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from django.core.cache import cache
from django.urls import NoReverseMatch, reverse

from datasets_app import extensions, finder
from datasets_app.models import DatasetVersion, VersionState
from datasets_app.preparing import parse, parts_of
from datasets_app.suggestions import MOST, Facts, Leakage, Suggestion, suggest, together
from project.contracts.runs import UserError
from project.kernel.errors import NotReady, Unavailable

ROWS_COMPARED = 200_000  # of both versions: so many are compared while somebody waits for a page
_LEARNED = re.compile(r"[-_](?:train|training)$", re.IGNORECASE)
HELD_OUT = re.compile(r"[-_](?:test|eval|evaluation|valid|validation|dev|held[-_]?out)$", re.IGNORECASE)
_NAMES = ("test", "eval", "evaluation", "valid", "validation", "dev", "held-out", "heldout")
_DAYS = 24 * 3600  # seconds


def of(version: DatasetVersion, against: Iterable[DatasetVersion] = ()) -> list[Suggestion]:
    """At most MOST suggestions. `against` are versions that are held out, whatever their names and sizes.

    Without them those that are known to be are compared, as long as both have few rows. Raises NotReady, Unavailable
    when `against` can't be compared.
    """
    held_out, named = is_held_out(version), list(against)
    known = [] if held_out else held_out_for(version)
    leakage = [compared(version, other) for other in named]
    if not named:
        leakage = [found for other in known if (found := _compared_if_small(version, other))]
    facts = Facts(
        report=version.report,
        rows=version.rows,
        row_kind=version.row_kind,
        is_held_out=held_out,
        has_held_out=bool(known or named) or _was_split(version),
        leakage=tuple(leakage),
        more=extensions.suggestions(version),
    )
    return suggest(facts)[:MOST]


def is_held_out(version: DatasetVersion) -> bool:
    """Is it the part of a split that models are measured on, or named like one?"""
    if version.part:
        return version.part != _first_part(version)
    return HELD_OUT.search(version.dataset.name) is not None


def _first_part(version: DatasetVersion) -> str:
    try:
        return next(iter(parts_of(parse(version.steps))), version.part)
    except UserError:  # made by a step that is gone
        return version.part


def held_out_for(version: DatasetVersion) -> list[DatasetVersion]:
    """The other parts of its split; else the newest versions of data sets that are named like a held-out part of it."""
    ready = DatasetVersion.objects.filter(workspace=version.workspace_id, state=VersionState.READY)
    ready = ready.select_related("dataset", "artifact").defer("report").exclude(dataset=version.dataset_id)
    if version.part and version.parent_id:
        siblings = ready.filter(parent=version.parent_id).exclude(part__in=("", version.part)).order_by("-number")
        found = [one for one in siblings if one.steps == version.steps]
    else:
        stem = _LEARNED.sub("", version.dataset.name)
        names = [f"{stem}{sign}{name}" for sign in "-_" for name in _NAMES]
        found = list(ready.filter(dataset__name__in=names).order_by("-number"))
    newest = {one.dataset_id: one for one in reversed(found)}
    return sorted(newest.values(), key=lambda one: one.dataset.name)


def _was_split(version: DatasetVersion) -> bool:
    return bool(version.part) or version.children.exclude(part="").exists()


def compared(version: DatasetVersion, held_out: DatasetVersion) -> Leakage:
    """What of `held_out` is in `version`, computed once: versions never change. Raises NotReady, Unavailable."""
    key = f"leakage.{version.pk}.{held_out.pk}"
    found = cache.get(key)
    if found is None:
        counted = finder.leakage(version, held_out, 0, 0)
        found = counted["same"], counted["same_question"]
        cache.set(key, found, 30 * _DAYS)
    return Leakage(str(held_out), *found)


def _compared_if_small(version: DatasetVersion, held_out: DatasetVersion) -> Leakage | None:
    if version.rows + held_out.rows > ROWS_COMPARED:
        return None
    try:
        return compared(version, held_out)
    except (NotReady, Unavailable):  # the page is shown all the same; Compare says why
        return None


# --- for pages and the API


def prepare_url(version: DatasetVersion, steps: Iterable[Any]) -> str:
    """The page that prepares a version, with these steps filled in; empty without steps."""
    listed = list(steps)
    address = address_of("dataset-prepare", version.pk) if listed else ""
    return f"{address}?{urlencode({'steps': json.dumps(listed)})}" if address else ""


def address_of(page: str, *arguments: Any) -> str:
    """Where a page is; empty in an installation without it."""
    try:
        return reverse(page, args=arguments)
    except NoReverseMatch:
        return ""


_PAGES = {"few_rows": ("dataset-write", "Let a model write rows")}  # what a person can do, where there is a page for it


def as_json(suggestion: Suggestion, version: DatasetVersion) -> dict[str, Any]:
    """A suggestion for the API, the command and the page; `prepare` is the address that opens its steps."""
    page, words = _PAGES.get(suggestion.name, ("", ""))
    url, url_words = (address_of(page), words) if page else (suggestion.url, suggestion.url_words)
    return {
        "name": suggestion.name,
        "title": suggestion.title,
        "evidence": suggestion.evidence,
        "rows": suggestion.rows,
        "share": round(suggestion.share, 6),
        "figure": suggestion.figure,
        "severity": suggestion.severity,
        "why": suggestion.why,
        "effect": suggestion.effect,
        "steps": [dict(step) for step in suggestion.steps],
        "prepare": prepare_url(version, suggestion.steps),
        "url": url,
        "url_words": url_words if url else "",
    }


def all_as_json(version: DatasetVersion, found: list[Suggestion]) -> dict[str, Any]:
    """The suggestions in their order, and the steps of all of them as one list."""
    steps = together(one.steps for one in found)
    return {
        "version": str(version.pk),
        "reference": str(version),
        "rows": version.rows,
        "suggestions": [as_json(one, version) for one in found],
        "steps": steps,
        "prepare": prepare_url(version, steps),
    }
