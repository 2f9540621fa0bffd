"""Lists: pages of results, and ordering by a closed list of fields."""

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet
from rest_framework import filters, pagination
from rest_framework.request import Request
from rest_framework.views import APIView

from project.kernel.errors import invalid


class Pages(pagination.LimitOffsetPagination):
    """`?limit=50&offset=0`; the answer has `count`, `next`, `previous`, `results`."""

    default_limit = 50
    max_limit = 500
    limit: int
    offset: int

    @classmethod
    def asked_for(cls, request: Request) -> "Pages":
        """The page that a request wants of something that is no table; whoever has it says `count`. Raises Invalid."""
        pages = cls()
        pages.request = request
        pages.limit = pages.get_limit(request) or pages.default_limit
        pages.offset = pages.get_offset(request)
        return pages

    def get_limit(self, request: Request) -> int | None:
        value = request.query_params.get("limit")
        if value is not None and not (_is_short_number(value) and 1 <= int(value) <= self.max_limit):
            raise invalid("limit", f"Use a whole number from 1 to {self.max_limit}.")
        return super().get_limit(request)

    def get_offset(self, request: Request) -> int:
        value = request.query_params.get("offset")
        if value is not None and not (_is_short_number(value) and int(value) < 2**31):
            raise invalid("offset", "Use a whole number of 0 or more.")
        return super().get_offset(request)


def _is_short_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


class Ordering(filters.OrderingFilter):
    """`?ordering=-created_at`. A field that is not offered is an error, not ignored."""

    def remove_invalid_fields(
        self, queryset: QuerySet[Any], fields: Iterable[str], view: APIView, request: Request
    ) -> list[str]:
        offered = [name for name, _ in self.get_valid_fields(queryset, view, {"request": request})]
        for field in fields:
            if field.lstrip("-") not in offered:
                raise invalid("ordering", f"'{field}' is not offered. Use one of: {', '.join(offered)}.")
        return list(fields)

    def get_default_valid_fields(self, queryset: Any, view: Any, context: Any = None) -> Any:
        return []  # ordering is by what a view lists, nothing else
