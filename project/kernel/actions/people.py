"""Workspaces, members and sign-in links."""

import secrets
from datetime import timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from project.kernel import access, audit
from project.kernel.access import Actor
from project.kernel.errors import Conflict, NotFound, invalid
from project.kernel.models import Membership, Role, SignInLink, User, Workspace
from project.kernel.models.people import hash_secret

LINK_LIFETIME = timedelta(minutes=30)


@transaction.atomic
def create_workspace(name: str, *, owner: User | None, by_label: str = "") -> Workspace:
    """A new, empty workspace; `owner` becomes its first member."""
    name = name.strip()
    if not name or len(name) > 100:
        raise invalid("name", "Give the workspace a name of 1 to 100 characters.")
    workspace = Workspace.objects.create(name=name, slug=Workspace.free_slug(name))
    if owner:
        Membership.objects.create(workspace=workspace, user=owner, role=Role.OWNER)
    by = Actor.for_user(owner, workspace) if owner else Actor.system(by_label or "command", workspace)
    audit.record("workspace.created", workspace, by=by)
    return workspace


@transaction.atomic
def rename_workspace(workspace: Workspace, name: str, *, by: Actor) -> Workspace:
    access.require(by, "workspace.manage", workspace)
    name = name.strip()
    if not name or len(name) > 100:
        raise invalid("name", "Give the workspace a name of 1 to 100 characters.")
    audit.record("workspace.renamed", workspace, by=by, old=workspace.name, new=name)
    workspace.name = name
    workspace.save(update_fields=["name"])
    return workspace


@transaction.atomic
def add_member(who: str, role: str, *, by: Actor) -> tuple[Membership, str | None]:
    """Make a person a member. `who` is a user name, or the e-mail address of somebody with or without an account.

    Returns the membership and, for a new person, a one-time sign-in secret to hand over.
    """
    access.require(by, "member.manage", by.workspace)
    wanted = _role(role)
    who = who.strip()
    user = User.objects.filter(username__iexact=who).first() or User.objects.filter(email__iexact=who).first()
    secret = None
    if user is None:
        if "@" not in who or len(who) > 150 or any(c.isspace() for c in who):
            raise invalid("who", "Nobody has this user name. To invite somebody new, enter their e-mail address.")
        user = User.objects.create_user(username=who.lower(), email=who)
        secret = sign_in_link(user)
    try:
        with transaction.atomic():
            membership = Membership.objects.create(workspace=by.workspace, user=user, role=wanted)
    except IntegrityError:
        raise Conflict(f"{user.label()} is a member already.") from None
    audit.record("member.added", user, by=by, role=str(wanted))
    return membership, secret


@transaction.atomic
def change_role(membership: Membership, role: str, *, by: Actor) -> Membership:
    access.require(by, "member.manage", membership)
    wanted = _role(role)
    if membership.role == Role.OWNER and wanted != Role.OWNER:
        _keep_an_owner(membership)
    audit.record("member.role_changed", membership.user, by=by, old=membership.role, new=str(wanted))
    membership.role = wanted
    membership.save(update_fields=["role"])
    return membership


@transaction.atomic
def remove_member(membership: Membership, *, by: Actor) -> None:
    """Also revokes the person's tokens in this workspace."""
    access.require(by, "member.manage", membership)
    _keep_an_owner(membership)
    audit.record("member.removed", membership.user, by=by)
    membership.user.api_tokens.filter(workspace=membership.workspace, revoked_at=None).update(revoked_at=timezone.now())
    membership.delete()


def _keep_an_owner(membership: Membership) -> None:
    owners = Membership.objects.select_for_update().filter(workspace=membership.workspace, role=Role.OWNER)
    if membership.role == Role.OWNER and owners.count() == 1:
        raise Conflict("A workspace keeps at least one owner; make somebody else owner first.")


def _role(role: str) -> Role:
    if role not in Role.values:
        raise invalid("role", f"Unknown role '{role}'. Use one of: {', '.join(Role.values)}.")
    return Role(role)


def sign_in_link(user: User) -> str:
    """A secret that signs `user` in once, within 30 minutes. Only its hash is kept."""
    secret = secrets.token_urlsafe(32)
    SignInLink.objects.create(user=user, secret_hash=hash_secret(secret), expires_at=timezone.now() + LINK_LIFETIME)
    return secret


def use_sign_in_link(secret: str) -> User:
    """The user a link belongs to; the link is spent. Raises NotFound when it is unknown, used or too old."""
    now = timezone.now()
    links = SignInLink.objects.filter(secret_hash=hash_secret(secret), used_at=None, expires_at__gt=now)
    if not links.update(used_at=now):
        raise NotFound("This sign-in link was used already or is too old. Ask for a new one.")
    user = SignInLink.objects.select_related("user").get(secret_hash=hash_secret(secret)).user
    if not user.is_active:
        raise NotFound("This account is switched off.")
    return user


@transaction.atomic
def ensure_operator(workspace_name: str = "My team", username: str = "operator") -> tuple[User, Workspace, bool]:
    """The first account (staff, owner) and workspace of a fresh installation. True when they were made just now."""
    user = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    created = user is None
    if user is None:
        user = User.objects.create_superuser(username=username, email="", password=None)
    workspace = user.workspaces.order_by("created_at").first() or Workspace.objects.order_by("created_at").first()
    if workspace is None:
        workspace = create_workspace(workspace_name, owner=user)
    elif not user.memberships.exists():
        Membership.objects.create(workspace=workspace, user=user, role=Role.OWNER)
    return user, workspace, created
