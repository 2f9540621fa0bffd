"""Tokens of programs: made, shown once, revoked."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from project.kernel import access, audit
from project.kernel.access import Actor
from project.kernel.errors import Forbidden, Invalid, invalid
from project.kernel.models import ApiToken, Role
from project.kernel.models.people import SCOPES, hash_secret


@transaction.atomic
def create(
    *, name: str, by: Actor, role: str = "", scopes: Sequence[str] = (), expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """A new token of at most the maker's role (`role` empty: the same), and its secret, which is not kept.

    Raises Invalid for an unknown role or scope, Forbidden for more than the maker has.
    """
    access.require(by, "token.create", by.workspace)
    if not name.strip():
        raise invalid("name", "Give the token a name that says who uses it.")
    if role and role not in Role.values:
        raise invalid("role", f"Unknown role '{role}'. Use one of: {', '.join(Role.values)}.")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise invalid("scopes", f"Unknown scope '{unknown[0]}'. Use any of: {', '.join(SCOPES)}.")
    if expires_at and expires_at <= timezone.now():
        raise invalid("expires_at", "This moment has passed already.")
    wanted = Role(role) if role else by.role
    if not by.role.covers(wanted):
        raise Forbidden(f"You are {by.role}; a token of yours can't be {wanted}.")
    if by.scopes and not (scopes and set(scopes) <= by.scopes):
        raise Forbidden("A narrowed token can only make tokens with scopes of its own.")
    if len(name) > 100:
        raise Invalid(errors={"name": ["Use at most 100 characters."]})
    secret = ApiToken.new_secret()
    token = ApiToken.objects.create(
        workspace=by.workspace,
        created_by=by.label,
        name=name.strip(),
        prefix=secret[:9],
        secret_hash=hash_secret(secret),
        role=wanted,
        scopes=sorted(set(scopes)),
        user_id=by.user_id,
        expires_at=expires_at,
    )
    audit.record("token.created", token, by=by, role=str(wanted), scopes=token.scopes)
    return token, secret


@transaction.atomic
def revoke(token: ApiToken, *, by: Actor) -> ApiToken:
    """End a token. People revoke their own, owners everybody's. Revoking twice changes nothing."""
    own = by.user_id is not None and token.user_id == by.user_id
    access.require(by, "token.create" if own else "token.manage", token)
    if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
        token.refresh_from_db()
        audit.record("token.revoked", token, by=by)
    return token
