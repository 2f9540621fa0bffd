"""`manage.py synthesize --config faq.yaml --wait`"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from django.core.management.base import CommandError, CommandParser

from datasets_app.models import DatasetVersion
from project.jobs.following import follow
from project.jobs.models import Job, JobState
from project.kernel.api.base import unknown_field
from project.kernel.commands import TuneloopCommand
from training.actions import synthesis

MOST_BYTES = 4 * 1024 * 1024  # of a file

_WRITES = (
    *("to", "model", "endpoint", "template_prompts", "values", "documents", "seeds", "system", "instructions"),
    *("output_format", "generation_config"),
)
_AUGMENTS = (
    *("dataset", "to", "model", "endpoint", "method", "through", "part", "share", "copies"),
    "generation_config",
)


class Command(TuneloopCommand):
    help = (
        "Let a model write rows. The file (YAML or JSON) is the body of POST /api/v1/synthetic-data/, or with "
        "`dataset` that of /api/v1/synthetic-data/augment/."
    )

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--config", required=True, metavar="FILE", help="what is written; - reads it here")
        parser.add_argument("--to", default="", help="the data set that gets the version, instead of the file's")
        parser.add_argument("--model", default="", help="the registered model that writes, instead of the file's")
        parser.add_argument("--endpoint", default="", help="the endpoint that writes, instead of the file's")
        parser.add_argument(
            "--wait", action="store_true", help="wait for the end, with a progress bar; runs it here without a worker"
        )

    def run(self, **options: Any) -> None:
        body = _document(options["config"])
        if options["model"] or options["endpoint"]:
            body = {**body, "model": options["model"], "endpoint": options["endpoint"]}
        if options["to"]:
            body["to"] = options["to"]
        known = _AUGMENTS if "dataset" in body else _WRITES
        if unknown := [name for name in body if name not in known]:
            raise CommandError(f"{unknown[0]}: {unknown_field(unknown[0], list(known))}")
        if "dataset" not in body and not body.get("to"):
            raise CommandError("to: name the data set that gets the version.")
        try:
            version = (synthesis.augment if "dataset" in body else synthesis.synthesize)(**body, by=self.actor)
        except (TypeError, AttributeError) as error:
            raise CommandError(f"--config: a value is of the wrong kind: {error}") from None
        job = Job.objects.get(pk=str(version.job_id))
        if options["wait"]:
            job = follow(job, by=self.actor, to=sys.stderr, quiet=options["json"])
            if job.state != JobState.SUCCEEDED:
                raise CommandError(f"{job.title}: {job.state}. {job.failure_message} {job.failure_hint}".strip())
            version = DatasetVersion.objects.select_related("dataset").get(pk=version.pk)
        self.out(as_json(version, job), words(version, job))


def _document(name: str) -> dict[str, Any]:
    try:
        with open(0) if name == "-" else Path(name).open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise CommandError(f"--config: {name} is larger than {MOST_BYTES:,} bytes.")
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--config: {name} can't be read: {error}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise CommandError(f"--config: {name} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CommandError("--config: write an object with keys such as to, model and template_prompts.")
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]


def as_json(version: DatasetVersion, job: Job) -> dict[str, Any]:
    return {
        "dataset": version.dataset_id,
        "version": version.pk,
        "reference": str(version),
        "state": version.state,
        "rows": version.rows,
        "synthetic_rows": version.synthetic_rows,
        "accepted": job.result.get("accepted"),
        "rejected": job.result.get("rejected"),
        "job": version.job_id,
    }


def words(version: DatasetVersion, job: Job) -> str:
    if not version.is_ready:
        return f"Job {job.pk} writes {version}. Its page: /jobs/{job.pk}/"
    counts = f"{job.result['accepted']:,} accepted, {job.result['rejected']:,} rejected"
    lines = [f"{version} is ready: {version.rows:,} rows, {version.synthetic_rows:,} of them synthetic ({counts})."]
    why = version.report["generation"]["why"]
    return "\n".join([*lines, *(f"  {count:,} × {reason}" for reason, count in why.items())])
