"""Who works, and how many places there are."""

from django.db import models

from project.jobs.models.job import Job, Queue


class Worker(models.Model):
    """One worker process and when it last said that it lives."""

    id = models.CharField(primary_key=True, max_length=200)
    host = models.CharField(max_length=200, db_index=True)
    pid = models.PositiveIntegerField()
    queues = models.JSONField(default=list)
    draining = models.BooleanField(default=False, help_text="takes no new jobs")
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["host", "started_at"]

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"


class DeviceSlot(models.Model):
    """A place on a host. Whoever works there holds it, from the claim until the work is over, and nobody else.

    The places of a queue are rows made beforehand (`project.jobs.slots`); a job takes one in the transaction that
    makes it running and gives it back in the one that ends the try. Others (serving engines) hold a place by name.
    """

    host = models.CharField(max_length=200)
    queue = models.CharField(max_length=10, choices=[*Queue.choices, ("serving", "Serving")])
    number = models.PositiveIntegerField()
    device = models.CharField(max_length=20, default="cpu", help_text="cpu or cuda:N")
    job = models.OneToOneField(Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="slot")
    holder = models.CharField(max_length=200, blank=True, help_text="who holds it, when it is not a job")
    bytes = models.BigIntegerField(default=0, help_text="device memory the holder said it needs; 0: not said")
    taken_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["host", "queue", "number"]
        constraints = [models.UniqueConstraint(fields=["host", "queue", "number"], name="one_slot_per_number")]

    def __str__(self) -> str:
        return f"{self.host} {self.queue} {self.number}"

    @property
    def is_free(self) -> bool:
        return self.job_id is None and not self.holder
