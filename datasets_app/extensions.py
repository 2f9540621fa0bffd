"""What apps above this one know about a version, for its page, its report and its suggestions.

They register in `AppConfig.ready()`; nothing here knows them. What they are asked is asked when somebody looks, so it
should take a query or two.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets_app.models import DatasetVersion
from datasets_app.suggestions import Suggestion
from project.kernel.access import Actor


@dataclass(frozen=True)
class Panel:
    """A part of the version's page: a template, which finds `context` as `panel`. `links` are for the API's report."""

    name: str
    template: str
    context: Mapping[str, Any]
    links: tuple[Mapping[str, Any], ...] = ()


PanelOf = Callable[[DatasetVersion, Actor], Panel | None]
SuggestionsOf = Callable[[DatasetVersion], Iterable[Suggestion]]

_panels: list[PanelOf] = []
_suggestions: list[SuggestionsOf] = []


def register_panel(panel: PanelOf) -> None:
    """`panel(version, by)` is shown on the page of a ready version; None shows nothing."""
    if panel not in _panels:
        _panels.append(panel)


def register_suggestions(suggestions: SuggestionsOf) -> None:
    """`suggestions(version)` compete with those of the report."""
    if suggestions not in _suggestions:
        _suggestions.append(suggestions)


def panels(version: DatasetVersion, by: Actor) -> list[Panel]:
    return [found for panel in _panels if (found := panel(version, by)) is not None]


def suggestions(version: DatasetVersion) -> tuple[Suggestion, ...]:
    return tuple(one for known in _suggestions for one in known(version))
