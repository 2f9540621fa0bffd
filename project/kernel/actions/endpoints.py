"""Endpoints and their tokens: made, changed, checked, handed to the job that uses one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from pydantic import SecretStr

from project.contracts.chat import Endpoint as Called
from project.contracts.chat import Message
from project.kernel import access, audit
from project.kernel.access import Actor
from project.kernel.errors import Conflict, Problem, TooMany, invalid
from project.kernel.models import Endpoint, Secret
from project.kernel.references import check_name
from project.modeling.asking import Asking, Busy, EndpointError, Reply
from project.modeling.http import AllowList, Refused, Target, read_url

LONGEST_TOKEN = 4000
CHECK_SECONDS = 20.0
_AGAIN = 2.0  # seconds between two checks of one endpoint


def allow_list() -> AllowList:
    """What OUTGOING_ALLOW says. Raises ValueError."""
    return AllowList.parse(settings.OUTGOING_ALLOW)


# --- writing


@transaction.atomic
def create(*, name: str, url: str, model: str, by: Actor, token: str = "") -> Endpoint:
    """A new endpoint; with a `token` also the secret that holds it. Raises Invalid."""
    access.require(by, "endpoint.manage", by.workspace)
    name = check_name(name)
    target = _target(url)
    endpoint = Endpoint(
        workspace=by.workspace, created_by=by.label, name=name, url=url.strip().rstrip("/"), model=_model(model)
    )
    endpoint.secret = _new_secret(name, target, token, by=by) if token else None
    _save(endpoint)
    audit.record("endpoint.created", endpoint, by=by, url=endpoint.url, model=endpoint.model, token=bool(token))
    return endpoint


@transaction.atomic
def change(
    endpoint: Endpoint,
    *,
    by: Actor,
    name: str | None = None,
    url: str | None = None,
    model: str | None = None,
    token: str | None = None,
) -> Endpoint:
    """Change what is given; `token` '' takes the token away. Raises Invalid.

    With another server the token must be entered again: it never goes where it was not meant for.
    """
    access.require(by, "endpoint.manage", endpoint)
    endpoint = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
    endpoint.name = endpoint.name if name is None else check_name(name)
    endpoint.url = endpoint.url if url is None else url.strip().rstrip("/")
    endpoint.model = endpoint.model if model is None else _model(model)
    target = _target(endpoint.url)
    old = endpoint.secret
    if token:
        if old and not _is_shared(old, endpoint):
            _replace(old, target, token, by=by)
        else:
            endpoint.secret = _new_secret(endpoint.name, target, token, by=by)
    elif token is not None:
        endpoint.secret = None
    elif old and old.origin != target.origin:
        raise invalid(
            "token", f"The token was entered for {old.origin}. Enter the one for {target.origin}, or remove it."
        )
    endpoint.checked_at, endpoint.check_ok, endpoint.check_detail = None, None, ""
    _save(endpoint)
    if old and endpoint.secret_id != old.pk:
        _delete_if_unused(old, by=by)
    audit.record(
        "endpoint.changed", endpoint, by=by, url=endpoint.url, model=endpoint.model, token_changed=token is not None
    )
    return endpoint


Needs = Callable[[Endpoint], Sequence[str]]
_needs: list[Needs] = []


def ask_before_deleting(needs: Needs) -> None:
    """Register what knows who still needs an endpoint: it gives their titles."""
    _needs.append(needs)


@transaction.atomic
def delete(endpoint: Endpoint, *, by: Actor) -> None:
    """Remove it, with a token that nothing else uses. Raises Conflict while something still needs it."""
    access.require(by, "endpoint.manage", endpoint)
    if needed := [title for find in _needs for title in find(endpoint)]:
        more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
        raise Conflict(
            f"{endpoint} is still needed by {', '.join(repr(title) for title in needed[:3])}{more}. "
            "Wait for the end, or cancel it first."
        )
    secret = endpoint.secret
    audit.record("endpoint.deleted", endpoint, by=by)
    endpoint.delete()
    if secret:
        _delete_if_unused(secret, by=by)


def _target(url: str) -> Target:
    try:
        return read_url(url.strip(), allow_list())
    except Refused as error:
        raise invalid("url", str(error)) from None


def _model(model: str) -> str:
    model = model.strip()
    if not model or len(model) > 200 or not model.isprintable():
        raise invalid("model", "Say what the server calls the model, in at most 200 characters.")
    return model


def _save(endpoint: Endpoint) -> None:
    try:
        with transaction.atomic():
            endpoint.save()
    except IntegrityError:
        raise invalid("name", f"There is an endpoint '{endpoint.name}' already.") from None


def _new_secret(name: str, target: Target, value: str, *, by: Actor) -> Secret:
    free, number = name, 2
    while Secret.objects.filter(workspace=by.workspace, name=free).exists():
        free, number = f"{name[:94]}-{number}", number + 1
    secret = Secret(workspace=by.workspace, created_by=by.label, name=free, origin=target.origin)
    secret.seal(_checked(value))
    secret.save(force_insert=True)
    audit.record("secret.created", secret, by=by, origin=secret.origin)
    return secret


def _replace(secret: Secret, target: Target, value: str, *, by: Actor) -> None:
    secret.origin = target.origin
    secret.seal(_checked(value))
    secret.save()
    audit.record("secret.replaced", secret, by=by, origin=secret.origin)


def _checked(value: str) -> str:
    value = value.strip()
    if not value or len(value) > LONGEST_TOKEN or not value.isascii() or not value.isprintable() or " " in value:
        raise invalid("token", f"A token has 1 to {LONGEST_TOKEN:,} visible ASCII characters, without blanks.")
    return value


def _is_shared(secret: Secret, endpoint: Endpoint) -> bool:
    return secret.endpoints.exclude(pk=endpoint.pk).exists()


def _delete_if_unused(secret: Secret, *, by: Actor) -> None:
    if not secret.endpoints.exists():
        audit.record("secret.deleted", secret, by=by)
        secret.delete()


# --- using


def callable_endpoint(endpoint: Endpoint) -> Called:
    """What a process needs to call it: the address, the model, the token in the clear. Raises Conflict, NoKey."""
    token = ""
    if endpoint.secret:
        origin = _target(endpoint.url).origin
        if endpoint.secret.origin != origin:
            raise Conflict(
                f"The token of endpoint '{endpoint}' was entered for {endpoint.secret.origin}, not {origin}."
            )
        token = endpoint.secret.unseal()
    return Called(
        url=endpoint.url, model=endpoint.model, token=SecretStr(token), allowed=tuple(settings.OUTGOING_ALLOW)
    )


@dataclass(frozen=True)
class Checked:
    """What came of a real call: `detail` is a sentence, `models` what the server lists, if it lists any."""

    ok: bool
    detail: str
    hint: str = ""
    models: tuple[str, ...] = ()
    seconds: float = 0.0


def check(endpoint: Endpoint, *, by: Actor) -> Checked:
    """Call it: first its list of models, then one token where that does not settle it. Never raises for its answer."""
    access.require(by, "endpoint.use", endpoint)
    last = Endpoint.objects.values_list("checked_at", flat=True).get(pk=endpoint.pk)
    if last and (timezone.now() - last).total_seconds() < _AGAIN:
        raise TooMany("It was checked a moment ago.")
    Endpoint.objects.filter(pk=endpoint.pk).update(checked_at=timezone.now())
    began = time.monotonic()
    try:
        found = _call(callable_endpoint(endpoint), began)
    except Problem as problem:
        found = Checked(False, problem.detail)
    except EndpointError as error:
        found = Checked(False, str(error), error.hint, seconds=time.monotonic() - began)
    detail = f"{found.detail} {found.hint}".strip()
    Endpoint.objects.filter(pk=endpoint.pk).update(
        checked_at=timezone.now(), check_ok=found.ok, check_detail=detail[:600]
    )
    audit.record("endpoint.checked", endpoint, by=by, ok=found.ok)
    return found


def _call(endpoint: Called, began: float) -> Checked:
    with Asking(endpoint, seconds=CHECK_SECONDS, tries=1) as asking:
        listed: list[str] = []
        try:
            listed = asking.models()
        except Busy:
            raise
        except EndpointError as error:
            if error.status not in (404, 405) and not 200 <= error.status < 300:  # many servers list nothing
                raise
        if endpoint.model in listed:
            return Checked(True, "It answers, and has the model.", models=tuple(listed), seconds=_since(began))
        reply: Reply = asking.ask_once([Message(role="user", content="Say yes.")], max_tokens=1, temperature=0.0)
        return Checked(True, f"It answers ('{reply.text.strip()[:40]}').", models=tuple(listed), seconds=_since(began))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


__all__ = ["Checked", "allow_list", "ask_before_deleting", "callable_endpoint", "change", "check", "create", "delete"]
