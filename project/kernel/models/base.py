"""What every object of a workspace has."""

from uuid import UUID

import uuid6
from django.db import models


def new_id() -> UUID:
    """A UUIDv7: unique, and sorted by the time it was made (RFC 9562)."""
    return UUID(int=uuid6.uuid7().int)


class WorkspaceObject(models.Model):
    """Belongs to one workspace; nobody outside it learns that it exists."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    workspace = models.ForeignKey("kernel.Workspace", on_delete=models.PROTECT, related_name="+", editable=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    created_by = models.CharField(max_length=200, blank=True, editable=False, help_text="Who made it, as a label")

    class Meta:
        abstract = True
        ordering = ["-id"]
