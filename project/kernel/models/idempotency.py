"""Answers to requests that carried an Idempotency-Key, so that a repeated POST creates nothing twice."""

from django.db import IntegrityError, models, transaction

from project.kernel.models.people import Workspace


class IdempotentReply(models.Model):
    """claimed (no body) -> kept. A failed request deletes its claim."""

    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="+")
    path = models.CharField(max_length=300)
    key = models.CharField(max_length=200)
    status = models.PositiveSmallIntegerField(default=0)
    body = models.TextField(null=True)  # noqa: DJ001  (null = not answered yet)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["workspace", "path", "key"], name="one_reply_per_key")]

    def __str__(self) -> str:
        return f"{self.path} {self.key}"

    fresh = False  # true on the one instance that made the claim

    @classmethod
    def claim(cls, workspace: Workspace, path: str, key: str) -> "IdempotentReply":
        """The row for this key; `fresh` when this call made it."""
        try:
            with transaction.atomic():
                reply = cls.objects.create(workspace=workspace, path=path[:300], key=key)
            reply.fresh = True
            return reply
        except IntegrityError:
            return cls.objects.get(workspace=workspace, path=path[:300], key=key)

    def keep(self, status: int, body: str) -> None:
        self.status, self.body = status, body
        self.save(update_fields=["status", "body"])
