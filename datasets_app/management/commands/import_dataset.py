"""`manage.py import_dataset rows.csv --name intents --columns prompt=text completion=category --wait`"""

import shlex
from pathlib import Path
from typing import IO, Any, cast

from django.core.management.base import CommandError, CommandParser

from datasets_app import sources
from datasets_app.actions import datasets
from datasets_app.mapping import UnclearColumns
from datasets_app.models import Dataset, DatasetVersion
from project.contracts.runs import UserError
from project.jobs.following import follow
from project.jobs.models import Job, JobState
from project.kernel.commands import TuneloopCommand
from project.kernel.errors import Invalid


class Command(TuneloopCommand):
    help = "Import a file, a folder, or rows from the Hub or a bucket, as a new data set or the next version of one."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", help=f"a file or a folder of this host, or {', '.join(sources.FORMS.values())}")
        parser.add_argument("--name", required=True, help="the data set; one that exists gets a new version")
        parser.add_argument("--description", default="", help="what it is, for a new data set")
        parser.add_argument(
            "--columns",
            nargs="+",
            default=[],
            metavar="PART=COLUMN",
            help="which column is what, as in prompt=question completion=label",
        )
        parser.add_argument("--format", default="auto", help="auto, jsonl, json, csv, tsv, parquet, arrow, text, …")
        parser.add_argument("--encoding", default="auto", help="auto, utf-8, cp1252, shift_jis, …")
        parser.add_argument("--split", default="", help="which part of a folder or repository that has several")
        parser.add_argument("--skip-bad-lines", action="store_true", help="leave bad lines out instead of refusing")
        parser.add_argument(
            "--wait", action="store_true", help="wait for the end, with a progress bar; runs it here without a worker"
        )

    def run(self, **options: Any) -> None:
        try:
            version = self.launch(options)
        except Invalid as problem:
            if not isinstance(problem.__cause__, UnclearColumns) or not problem.__cause__.suggestion:
                raise
            pairs = (shlex.quote(f"{part}={column}") for part, column in problem.__cause__.suggestion.items())
            raise CommandError(f"{problem.detail} Here: --columns {' '.join(pairs)}") from None
        job = Job.objects.get(pk=str(version.job_id))
        if options["wait"]:
            job = follow(job, by=self.actor, to=cast("IO[str]", self.stderr._out), quiet=self.options["json"])
            if job.state != JobState.SUCCEEDED:
                raise CommandError(f"{job.title}: {job.state}. {job.failure_message} {job.failure_hint}".strip())
            version = DatasetVersion.objects.select_related("dataset").get(pk=version.pk)
        data = {
            "dataset": version.dataset_id,
            "version": version.pk,
            "reference": str(version),
            "state": version.state,
            "rows": version.rows,
            "row_kind": version.row_kind,
            "digest": version.digest,
            "summary": version.summary,
            "job": job.pk,
        }
        self.out(data, self.words(version, job))

    def launch(self, options: dict[str, Any]) -> DatasetVersion:
        """The new version, of the data set of this name or of a new one."""
        reading = {
            "columns": columns(options["columns"]),
            "skip_bad_lines": options["skip_bad_lines"],
            "format": options["format"],
            "encoding": options["encoding"],
            "split": options["split"],
        }
        file = place(options["path"])
        dataset = Dataset.objects.filter(workspace=self.workspace, name=options["name"]).first()
        if dataset is not None:
            return datasets.add_version(dataset, file, by=self.actor, **reading)
        about = {"description": options["description"]}
        return datasets.create(self.workspace, options["name"], file, by=self.actor, **about, **reading)

    def words(self, version: DatasetVersion, job: Job) -> str:
        if not version.is_ready:
            return f"Job {job.pk} imports {version}. Its page: /jobs/{job.pk}/"
        lines = [f"{version} is ready: {version.rows:,} rows of kind {version.row_kind}, digest {version.digest[:12]}."]
        lines += [f"  {finding['severity']}: {finding['title']}." for finding in version.report["findings"]]
        return "\n".join(lines)


def place(text: str) -> Path | sources.Uri:
    """What the argument names. Raises CommandError for a URI that can't be read."""
    if not sources.looks_like_one(text) or Path(text).exists():
        return Path(text)
    try:
        return sources.parse(text)
    except UserError as error:
        raise CommandError(f"{error} {error.hint}".strip()) from None


def columns(pairs: list[str]) -> dict[str, str]:
    """['prompt=question'] -> {'prompt': 'question'}. Raises CommandError."""
    found: dict[str, str] = {}
    for pair in pairs:
        part, equals, column = pair.partition("=")
        if not equals or not part or not column:
            raise CommandError(f"--columns: '{pair}' is not PART=COLUMN, as in prompt=question.")
        if part in found:
            raise CommandError(f"--columns: '{part}' is given twice.")
        found[part] = column
    return found
