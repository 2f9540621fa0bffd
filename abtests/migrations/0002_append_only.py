from django.db import migrations

from project.kernel.append_only import forbid_changes


class Migration(migrations.Migration):
    dependencies = [("abtests", "0001_initial")]
    operations = [forbid_changes("abtests_feedbackedit")]
