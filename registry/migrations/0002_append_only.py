from django.db import migrations

from project.kernel.append_only import forbid_changes


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial")]
    operations = [forbid_changes("registry_stagechange")]
