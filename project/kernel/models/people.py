"""Workspaces, their members, and the tokens of programs."""

import hashlib
import secrets
from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone
from django.utils.text import slugify

from project.kernel.models.base import WorkspaceObject, new_id


class Role(models.TextChoices):
    """From least to most: reads and rates; works on data and jobs; runs production; decides who belongs."""

    VIEWER = "viewer", "Viewer"
    EDITOR = "editor", "Editor"
    OPERATOR = "operator", "Operator"
    OWNER = "owner", "Owner"

    @property
    def rank(self) -> int:
        return list(Role).index(self)

    def covers(self, other: "Role") -> bool:
        return self.rank >= other.rank


class User(AbstractUser):
    """A person who signs in. What they may do is said by their memberships."""

    def label(self) -> str:
        return self.email or self.username


def _hash_key() -> str:
    return secrets.token_hex(32)


class Workspace(models.Model):
    """The wall between teams: every other object is inside exactly one."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=100)
    slug = models.SlugField(max_length=100, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    hash_key = models.CharField(
        max_length=64, default=_hash_key, editable=False, help_text="Keys the hashes of end users and of A/B assignment"
    )
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="kernel.Membership", related_name="workspaces")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def free_slug(name: str) -> str:
        """A slug nobody has yet."""
        stem = slugify(name)[:90] or "workspace"
        slug, number = stem, 2
        while Workspace.objects.filter(slug=slug).exists():
            slug, number = f"{stem}-{number}", number + 1
        return slug


class Membership(models.Model):
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role, default=Role.VIEWER)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "user"], name="one_membership_per_user")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.workspace}"


SCOPES = ("read", "write", "operate", "infer", "feedback")


def hash_secret(secret: str) -> str:
    """SHA-256: enough for secrets of 256 random bits, and fast enough for every request."""
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiToken(WorkspaceObject):
    """A program's key to one workspace. Only its hash is kept; the secret is shown once.

    active -> revoked | expired; neither comes back.
    """

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=12, help_text="The first characters, to recognise it by")
    secret_hash = models.CharField(max_length=64, unique=True, editable=False)
    role = models.CharField(max_length=10, choices=Role, default=Role.EDITOR)
    scopes = models.JSONField(default=list, blank=True, help_text="Empty means everything the role may do")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="api_tokens"
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def is_active(self, now: datetime | None = None) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > (now or timezone.now()))

    @property
    def state(self) -> str:
        if self.revoked_at:
            return "revoked"
        return "active" if self.is_active() else "expired"

    @staticmethod
    def new_secret() -> str:
        return "tl-" + secrets.token_urlsafe(32)


class SignInLink(models.Model):
    """A link that signs one person in, once, within a few minutes."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    secret_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"sign-in link of {self.user}"
