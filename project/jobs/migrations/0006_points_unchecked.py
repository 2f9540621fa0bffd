"""Points and roll-ups no longer look up their job one by one: their writer holds its row."""

import django.db.models.deletion
from django.db import migrations, models


def unchecked() -> models.ForeignKey:
    return models.ForeignKey(
        db_constraint=False,
        db_index=False,
        on_delete=django.db.models.deletion.CASCADE,
        related_name="+",
        to="jobs.job",
    )


class Migration(migrations.Migration):
    dependencies = [("jobs", "0005_rollups")]

    operations = [
        migrations.AlterField("metric", "job", unchecked()),
        migrations.AlterField("metricrollup", "job", unchecked()),
    ]
