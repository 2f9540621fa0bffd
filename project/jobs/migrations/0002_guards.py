"""The database itself refuses what no writer may do: leave a terminal state, lower an attempt, change an event.

On SQLite a later migration that rebuilds a table loses its triggers: repeat these operations after it.
"""

from typing import Any

from django.db import migrations

_TERMINAL = "('succeeded', 'failed', 'cancelled')"
_RULES = (
    ("jobs_job", "job_stays_ended", f"OLD.state IN {_TERMINAL} AND NEW.state <> OLD.state", "an ended job keeps its state"),
    ("jobs_job", "job_attempt_grows", "NEW.attempt < OLD.attempt", "the attempt of a job only grows"),
    ("jobs_jobevent", "job_event_unchanged", "1 = 1", "events are not changed"),
)


def add(apps: Any, schema_editor: Any) -> None:
    for table, name, when, words in _RULES:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION '{words}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
            )
            schema_editor.execute(
                f"CREATE TRIGGER {name} BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {name}()"
            )
        else:
            schema_editor.execute(
                f"CREATE TRIGGER {name} BEFORE UPDATE ON {table} WHEN {when} "
                f"BEGIN SELECT RAISE(ABORT, '{words}'); END"
            )


def remove(apps: Any, schema_editor: Any) -> None:
    for table, name, _, _ in _RULES:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
            schema_editor.execute(f"DROP FUNCTION IF EXISTS {name}()")
        else:
            schema_editor.execute(f"DROP TRIGGER IF EXISTS {name}")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]
    operations = [migrations.RunPython(add, remove)]
