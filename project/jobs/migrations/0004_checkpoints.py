"""Checkpoints as rows of their own, filled from what jobs have announced."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models


def fill(apps: Any, schema_editor: Any) -> None:
    attempts = apps.get_model("jobs", "JobAttempt").objects.values_list("job", "number", "host")
    hosts = {(job, number): host for job, number, host in attempts}
    for event in apps.get_model("jobs", "JobEvent").objects.filter(type="checkpoint").iterator():
        apps.get_model("jobs", "Checkpoint").objects.update_or_create(
            job_id=event.job_id,
            attempt=event.attempt,
            step=event.body["step"],
            defaults={
                "at": event.at,
                "host": hosts.get((event.job_id, event.attempt), ""),
                "path": event.body["path"],
                "metrics": event.body.get("metrics", {}),
            },
        )


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0003_life_cycle"),
        ("kernel", "0002_append_only"),
    ]

    operations = [
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("attempt", models.PositiveIntegerField()),
                ("step", models.PositiveBigIntegerField()),
                ("at", models.DateTimeField()),
                ("host", models.CharField(max_length=200)),
                ("path", models.CharField(help_text="below the run folder of its attempt", max_length=500)),
                ("metrics", models.JSONField(default=dict)),
                ("size", models.BigIntegerField(default=0, help_text="bytes; 0: not known")),
                ("digest", models.CharField(blank=True, help_text="SHA-256 of its manifest", max_length=64)),
                ("damage", models.TextField(blank=True, help_text="why it can't be used")),
                ("deleted_at", models.DateTimeField(blank=True, null=True)),
                (
                    "artifact",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="kernel.artifact",
                    ),
                ),
                (
                    "job",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="checkpoints", to="jobs.job"
                    ),
                ),
            ],
            options={
                "ordering": ["job", "-step", "-attempt"],
            },
        ),
        migrations.AddField(
            model_name="job",
            name="start_checkpoint",
            field=models.ForeignKey(
                blank=True,
                help_text="another job's, that this one starts from",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="starts",
                to="jobs.checkpoint",
            ),
        ),
        migrations.AddConstraint(
            model_name="checkpoint",
            constraint=models.UniqueConstraint(fields=("job", "attempt", "step"), name="one_checkpoint_per_step"),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
