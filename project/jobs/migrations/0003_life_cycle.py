"""Pause, limits, and what was adjusted. Rebuilding the table on SQLite loses its triggers, so they are made again."""

from importlib import import_module
from typing import Any

from django.db import migrations, models

guards = import_module("project.jobs.migrations.0002_guards")


def restore(apps: Any, schema_editor: Any) -> None:
    guards.remove(apps, schema_editor)
    guards.add(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [
        ("jobs", "0002_guards"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="adjusted",
            field=models.JSONField(default=dict, help_text="parameters that were changed so that it fits its device"),
        ),
        migrations.AddField(
            model_name="job",
            name="memory_limit",
            field=models.BigIntegerField(blank=True, help_text="bytes of the host's memory", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="pause_requested_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="pause_requested_by",
            field=models.CharField(blank=True, max_length=200),
        ),
        migrations.AddField(
            model_name="job",
            name="time_limit",
            field=models.PositiveIntegerField(blank=True, help_text="seconds of work over all tries", null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="worked",
            field=models.FloatField(default=0.0, help_text="seconds that its finished tries took"),
        ),
        migrations.RunPython(restore, migrations.RunPython.noop),
    ]
