"""Things that are written once: audit entries, lineage edges, stored files."""

from typing import Any

from django.db import models

from project.kernel.models.base import WorkspaceObject, new_id


class AuditEntry(models.Model):
    """Who did what to which object, and when. The database refuses to change or delete a row."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    workspace = models.ForeignKey("kernel.Workspace", null=True, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor_kind = models.CharField(max_length=10)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_label = models.CharField(max_length=200)
    verb = models.CharField(max_length=60, db_index=True)
    object_kind = models.CharField(max_length=60)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(max_length=200)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["object_kind", "object_id"], name="audit_object")]

    def __str__(self) -> str:
        return f"{self.actor_label}: {self.verb} {self.object_label}"


class Edge(models.Model):
    """One step of lineage: `source` is what `target` was made from."""

    workspace = models.ForeignKey("kernel.Workspace", on_delete=models.CASCADE, related_name="+")
    source_kind = models.CharField(max_length=60)
    source_id = models.CharField(max_length=64)
    relation = models.CharField(max_length=40)
    target_kind = models.CharField(max_length=60)
    target_id = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["source_kind", "source_id", "relation", "target_kind", "target_id"], name="one_edge"
            )
        ]
        indexes = [models.Index(fields=["target_kind", "target_id"], name="edge_target")]

    def __str__(self) -> str:
        return f"{self.source_kind} {self.source_id} {self.relation} {self.target_kind} {self.target_id}"


class Artifact(WorkspaceObject):
    """A stored folder of files. Its key never changes and is never reused, its manifest says what it must contain."""

    kind = models.CharField(max_length=30)
    key = models.CharField(max_length=300, unique=True)
    manifest = models.JSONField(help_text="[{path, size, sha256}], sorted by path")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the manifest")
    size = models.BigIntegerField(help_text="bytes")

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"

    def files(self) -> list[dict[str, Any]]:
        return list(self.manifest)
