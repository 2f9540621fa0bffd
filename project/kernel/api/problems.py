"""Every error of the API as RFC 9457 problem details."""

import logging
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.db.models import ProtectedError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions
from rest_framework.response import Response

from project.kernel.errors import Conflict, Problem, Unavailable

log = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"


def document(status: int, title: str, detail: str, errors: dict[str, Any] | None = None) -> dict[str, Any]:
    """The body of a problem. `errors` maps a field (dotted when nested) to its messages."""
    slug = title.lower().replace(" ", "-")
    body: dict[str, Any] = {"type": f"/docs/errors#{slug}", "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return body


def problem_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler. Returns None for what is our own mistake: that is a 500, logged with its traceback."""
    headers: dict[str, str] = {}
    if isinstance(error, ProtectedError):
        names = sorted({str(obj._meta.verbose_name) for obj in error.protected_objects})
        error = Conflict(f"It is still in use by: {', '.join(names)}.")
    if isinstance(error, OperationalError) and "locked" in str(error):
        error = Unavailable("The database is busy; try again.")
    if isinstance(error, Problem):
        body = document(error.status, error.title, error.detail, error.errors)
    elif isinstance(error, exceptions.ValidationError):
        errors = _flatten(error.detail)
        detail = "; ".join(f"{field}: {' '.join(messages)}" for field, messages in errors.items())
        body = document(400, "Invalid input", detail, errors)
    elif isinstance(error, Http404):
        body = document(404, "Not found", str(error) or "There is nothing here.")
    elif isinstance(error, PermissionDenied):
        body = document(403, "Not allowed", str(error) or "You may not do this.")
    elif isinstance(error, exceptions.APIException):
        title = HTTPStatus(error.status_code).phrase.capitalize()
        body = document(error.status_code, title, str(error.detail))
        if wait := getattr(error, "wait", None):
            headers["Retry-After"] = str(int(wait))
        if challenge := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = challenge
    else:
        return None
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _flatten(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """{'a': {'b': ['x']}} -> {'a.b': ['x']}; messages about the whole go under 'non_field_errors' or their field."""
    if isinstance(detail, dict):
        flat: dict[str, list[str]] = {}
        for name, inner in detail.items():
            whole = bool(prefix) and name == "non_field_errors"
            flat.update(_flatten(inner, prefix if whole else f"{prefix}.{name}" if prefix else str(name)))
        return flat
    if isinstance(detail, list) and any(isinstance(item, dict) for item in detail):
        flat = {}
        for index, inner in enumerate(detail):
            if inner:
                flat.update(_flatten(inner, f"{prefix}[{index}]"))
        return flat
    messages = [str(item) for item in detail] if isinstance(detail, list) else [str(detail)]
    return {prefix or "non_field_errors": messages}


def api_not_found(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """The answer for an API path that does not exist."""
    body = document(404, "Not found", f"There is no {request.path}. /api/docs/ lists what there is.")
    return JsonResponse(body, status=404, content_type=CONTENT_TYPE)
