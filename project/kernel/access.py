"""Who may do what. One function is asked everywhere: `require`.

An object of another workspace does not exist for the asker (404). Inside a workspace, a verb needs a role and, for a
token that was narrowed, a scope (403).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar
from uuid import UUID

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import models

from project.kernel.errors import Forbidden, NotFound
from project.kernel.models import ApiToken, Membership, Role, User, Workspace

M = TypeVar("M", bound=models.Model)


@dataclass(frozen=True)
class Actor:
    """Somebody who acts in one workspace: a person, a token or a part of the system."""

    kind: Literal["user", "token", "system"]
    label: str
    workspace: Workspace
    role: Role
    scopes: frozenset[str] = frozenset()
    user_id: int | None = None
    token_id: UUID | None = None

    @classmethod
    def for_user(cls, user: User, workspace: Workspace) -> "Actor":
        """Raises NotFound when the user is not a member."""
        membership = Membership.objects.filter(user=user, workspace=workspace).first()
        if membership is None:
            raise NotFound("No such workspace.")
        return cls.for_membership(membership, user=user, workspace=workspace)

    @classmethod
    def for_membership(cls, membership: Membership, *, user: User, workspace: Workspace) -> "Actor":
        return cls("user", user.label(), workspace, Role(membership.role), user_id=user.pk)

    @classmethod
    def for_token(cls, token: ApiToken) -> "Actor":
        return cls(
            "token",
            f"token {token.name}",
            token.workspace,
            Role(token.role),
            scopes=frozenset(token.scopes),
            user_id=token.user_id,
            token_id=token.pk,
        )

    @classmethod
    def system(cls, name: str, workspace: Workspace) -> "Actor":
        """A part of the product that acts on its own, by name: 'supervisor', 'command'."""
        return cls("system", name, workspace, Role.OWNER)

    @property
    def identity(self) -> str:
        return str(self.token_id or self.user_id or self.label)

    def may(self, verb: str) -> bool:
        """May this actor do `verb` in their own workspace? For buttons; actions use `require`."""
        role, scope = _rule(verb)
        return self.role.covers(role) and (not self.scopes or scope in self.scopes)


_verbs: dict[str, tuple[Role, str]] = {}


def register(verbs: Mapping[str, tuple[str, str]]) -> None:
    """Called by each app when it is ready: verb -> (least role, scope)."""
    _verbs.update({verb: (Role(role), scope) for verb, (role, scope) in verbs.items()})


def _rule(verb: str) -> tuple[Role, str]:
    if verb not in _verbs:
        raise LookupError(f"No app registered the verb '{verb}'.")
    return _verbs[verb]


def verbs() -> dict[str, tuple[Role, str]]:
    return dict(_verbs)


def require(by: Actor, verb: str, target: models.Model) -> None:
    """Let `by` do `verb` to `target`, or raise NotFound (another workspace's) or Forbidden (role, scope)."""
    role, scope = _rule(verb)
    workspace_id = target.pk if isinstance(target, Workspace) else getattr(target, "workspace_id")  # noqa: B009
    if workspace_id != by.workspace.pk:
        raise NotFound(f"No such {target._meta.verbose_name}.")
    if by.scopes and scope not in by.scopes:
        raise Forbidden(f"This token has no '{scope}' scope, which {_words(verb)} needs.")
    if not by.role.covers(role):
        raise Forbidden(f"You are {by.role} here; {_words(verb)} needs {role} or more.")


def _words(verb: str) -> str:
    noun, _, action = verb.partition(".")
    return f"'{action.replace('_', ' ')}' on a {noun.replace('_', ' ')}"


@cache
def _workspace_path(model: type[models.Model]) -> str:
    return "pk" if model is Workspace else "workspace"


def visible(queryset: "models.QuerySet[M]", by: Actor) -> "models.QuerySet[M]":
    """Only what belongs to the actor's workspace."""
    return queryset.filter(**{_workspace_path(queryset.model): by.workspace.pk})


def find(queryset: "models.QuerySet[M]", by: Actor, **lookup: Any) -> M:
    """One visible object, or NotFound. A malformed id is simply not found."""
    try:
        return visible(queryset, by).get(**lookup)
    except (ObjectDoesNotExist, ValueError, TypeError, ValidationError):
        raise NotFound(f"No such {queryset.model._meta.verbose_name}.") from None
