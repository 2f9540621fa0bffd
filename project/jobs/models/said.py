"""What jobs said: numbered events, and numbers over steps."""

from django.db import models

from project.jobs.models.job import Job


class JobEvent(models.Model):
    """Event number `seq` of a job: 1, 2, 3 … without a gap. Rows are never changed.

    `line` is the engine's line it came from, the last one where several were put together; empty for what the
    platform says itself (type 'state'). (attempt, line) is unique, so a line that is read twice is written once.
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveBigIntegerField()
    attempt = models.PositiveIntegerField()
    line = models.PositiveBigIntegerField(null=True)
    type = models.CharField(max_length=20)
    at = models.DateTimeField()
    body = models.JSONField(default=dict)

    class Meta:
        ordering = ["job", "seq"]
        constraints = [
            models.UniqueConstraint(fields=["job", "seq"], name="one_event_per_seq"),
            models.UniqueConstraint(fields=["job", "attempt", "line"], name="one_event_per_line"),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.type}"


class Metric(models.Model):
    """One number at one step. A later attempt that passes the same step again wins over an earlier one."""

    pk = models.CompositePrimaryKey("job", "key", "step", "attempt")
    # A writer holds the job's row, so it exists: the database need not look for every point.
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    key = models.CharField(max_length=100)
    step = models.PositiveBigIntegerField()
    attempt = models.PositiveIntegerField()
    value = models.FloatField()
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.key} {self.value} at {self.step}"


class MetricRollup(models.Model):
    """A stretch of one number's steps: where it begins and ends, its least and greatest value and where these are.

    It tells what a reader sees: of a step that several attempts passed, the last attempt's value counts. Only complete
    stretches are here, see `project.jobs.rollups`.
    """

    pk = models.CompositePrimaryKey("job", "key", "level", "bucket")
    # A writer holds the job's row, so it exists: the database need not look for every point.
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    key = models.CharField(max_length=100)
    level = models.PositiveSmallIntegerField()
    bucket = models.PositiveBigIntegerField()
    first_step = models.PositiveBigIntegerField()
    last_step = models.PositiveBigIntegerField()
    low_step = models.PositiveBigIntegerField()
    low = models.FloatField()
    high_step = models.PositiveBigIntegerField()
    high = models.FloatField()
    count = models.PositiveBigIntegerField()

    def __str__(self) -> str:
        return f"{self.key} from {self.first_step} to {self.last_step}: {self.low} to {self.high}"
