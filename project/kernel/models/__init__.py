"""Who may do what, what was done, and where files are."""

from project.kernel.models.base import WorkspaceObject, new_id
from project.kernel.models.endpoints import Endpoint, Secret
from project.kernel.models.idempotency import IdempotentReply
from project.kernel.models.people import ApiToken, Membership, Role, SignInLink, User, Workspace
from project.kernel.models.records import Artifact, AuditEntry, Edge

__all__ = [
    "ApiToken",
    "Artifact",
    "AuditEntry",
    "Edge",
    "Endpoint",
    "IdempotentReply",
    "Membership",
    "Role",
    "Secret",
    "SignInLink",
    "User",
    "Workspace",
    "WorkspaceObject",
    "new_id",
]
