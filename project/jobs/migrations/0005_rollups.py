"""Stretches of long series, filled from the points that are there."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

LEAF, FACTOR, LEVELS = 16, 8, 8


def fill(apps: Any, schema_editor: Any) -> None:
    metrics = apps.get_model("jobs", "Metric").objects
    for job, key in metrics.order_by().values_list("job", "key").distinct():
        points = dict(metrics.filter(job=job, key=key).order_by("step", "attempt").values_list("step", "value"))
        fill_series(apps.get_model("jobs", "MetricRollup"), job, key, points)


def fill_series(rollup: Any, job: Any, key: str, points: dict[int, float]) -> None:
    last = max(points)
    for level in range(LEVELS):
        width = LEAF * FACTOR**level
        stretches: dict[int, list[int]] = {}
        for step in points:
            if step // width < last // width:
                stretches.setdefault(step // width, []).append(step)
        rows = []
        for bucket, steps in stretches.items():
            low, high = min(steps, key=points.__getitem__), max(steps, key=points.__getitem__)
            rows.append(
                rollup(
                    job_id=job,
                    key=key,
                    level=level,
                    bucket=bucket,
                    first_step=steps[0],
                    last_step=steps[-1],
                    low_step=low,
                    low=points[low],
                    high_step=high,
                    high=points[high],
                    count=len(steps),
                )
            )
        rollup.objects.bulk_create(rows, batch_size=500)


class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_checkpoints")]

    operations = [
        migrations.CreateModel(
            name="MetricRollup",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "job", "key", "level", "bucket", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("key", models.CharField(max_length=100)),
                ("level", models.PositiveSmallIntegerField()),
                ("bucket", models.PositiveBigIntegerField()),
                ("first_step", models.PositiveBigIntegerField()),
                ("last_step", models.PositiveBigIntegerField()),
                ("low_step", models.PositiveBigIntegerField()),
                ("low", models.FloatField()),
                ("high_step", models.PositiveBigIntegerField()),
                ("high", models.FloatField()),
                ("count", models.PositiveBigIntegerField()),
                (
                    "job",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="jobs.job",
                    ),
                ),
            ],
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
