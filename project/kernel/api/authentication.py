"""Programs come with a bearer token, pages with their session. Either way the request gets an Actor."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from project.kernel.access import Actor
from project.kernel.models import ApiToken, User
from project.kernel.models.people import hash_secret
from project.kernel.pages import current_actor


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer tl-…`. A wrong, revoked or expired token is a 401 that says which."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = (
            ApiToken.objects.select_related("workspace", "user").filter(secret_hash=hash_secret(secret.strip())).first()
        )
        if token is None:
            raise exceptions.AuthenticationFailed("This token is not known here.")
        if not token.is_active() or (token.user and not token.user.is_active):
            raise exceptions.AuthenticationFailed(f"This token is {token.state}.")
        touch(token)
        return token.user or TokenUser(), Actor.for_token(token)

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="tuneloop"'


def touch(token: ApiToken) -> None:
    """Note that a token was used, at most once a minute."""
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > timedelta(minutes=1):
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)


class TokenUser:
    """Stands for a program whose token belongs to no person."""

    is_authenticated = True
    is_active = True
    is_staff = False
    pk = None


class PageSessionAuthentication(authentication.SessionAuthentication):
    """The signed-in person of the page, in the page's current workspace. Changes need the CSRF token."""

    def authenticate(self, request: Request) -> tuple[User, Actor] | None:
        user = getattr(request._request, "user", None)
        if not isinstance(user, User) or not user.is_active:
            return None
        self.enforce_csrf(request)
        actor = current_actor(request._request)
        if actor is None:
            raise exceptions.PermissionDenied("You belong to no workspace yet; ask an owner to add you.")
        return user, actor
