"""For tests of every app: a ready data set version without a job's process."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets_app.actions import datasets
from datasets_app.models import DatasetVersion
from datasets_app.recipes import import_rows
from project.contracts.runs import RunSpec
from project.jobs.models import Job
from project.kernel import artifacts
from project.kernel.access import Actor
from project.runner.context import Context


def ready_version(by: Actor, name: str, rows: Sequence[dict[str, Any]], **options: Any) -> DatasetVersion:
    """Version 1 of the new data set `name` with these rows (as JSON Lines would have them), imported and ready.

    The recipe and the outcome handler are the real ones; only the process between them is left out.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = folder / f"{name}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        version = datasets.create(by.workspace, name, source, by=by, **options)
        job = Job.objects.get(subject_id=str(version.pk))
        spec = RunSpec(job=str(job.pk), attempt=1, recipe=job.recipe, params=job.params, inputs={"source": str(source)})
        context = Context(folder, spec)
        import_rows.run(import_rows.Params.model_validate(job.params), context)
        assert context.outcome is not None  # noqa: S101
        artifact = artifacts.store_tree(context.artifact, workspace=by.workspace, kind="import")
        datasets.imported(job, context.outcome.result, artifact)
    job.delete()
    version.refresh_from_db()
    return version
