"""What pages and API share: lists that are no tables, and pairs of evaluations named in an address."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from project.kernel.errors import Invalid, NotFound, invalid
from training.answers import Slice
from training.models import Evaluation

PAGE = 25


def sliced(request: HttpRequest, read: Callable[[int, int], Slice]) -> "Page[Any]":
    """The page that `?page=` asks for of something that only `read(offset, limit)` knows."""
    text = request.GET.get("page", "1")
    number = int(text) if text.isdecimal() and 0 < len(text) < 8 else 1
    found = read((max(number, 1) - 1) * PAGE, PAGE)
    page = Paginator(range(found.total), PAGE).get_page(number)
    if page.number != number:  # beyond the end
        found = read((page.number - 1) * PAGE, PAGE)
    page.object_list = found.items  # type: ignore[assignment]
    return page


def pair_of(queryset: QuerySet[Evaluation], texts: list[str]) -> tuple[Evaluation, Evaluation]:
    """The two evaluations that `?evaluations=a,b` (or the parameter twice) names. Raises Invalid, NotFound."""
    names = list(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
    if len(names) != 2:
        raise invalid("evaluations", "Name two different evaluations.")
    try:
        keys = [UUID(name) for name in names]
    except ValueError:
        raise Invalid(errors={"evaluations": ["An evaluation is named by its id."]}) from None
    found = {row.pk: row for row in queryset.filter(pk__in=keys)}
    if len(found) != 2:
        raise NotFound("No such evaluation.")
    return found[keys[0]], found[keys[1]]
