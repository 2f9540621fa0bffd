"""`manage.py prepare_dataset intents:1 --steps steps.yaml --to intents-clean --wait`"""

import json
import sys
from pathlib import Path
from typing import IO, Any, cast

import yaml
from django.core.management.base import CommandError, CommandParser

from datasets_app.actions import datasets, preparations
from datasets_app.models import DatasetVersion
from datasets_app.previewing import ROWS, Answer, Shown
from project.jobs.following import follow
from project.jobs.models import Job, JobState
from project.kernel.commands import TuneloopCommand

MOST_BYTES = 1024 * 1024  # of a file of steps


class Command(TuneloopCommand):
    help = "Make a new version of a data set by steps: filter, transform, drop duplicates, split and others."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", help="the version to start from: name, name:3 or an id")
        parser.add_argument(
            "--steps", metavar="FILE", help="a YAML or JSON file with the list of steps; - reads it here"
        )
        parser.add_argument(
            "--step",
            action="append",
            default=[],
            metavar="JSON",
            help='one step, as in \'{"type": "filter", "condition": "length > 10"}\'; may be given several times',
        )
        parser.add_argument("--to", default="", help="the data set that gets the version (default: its own)")
        parser.add_argument("--seed", type=int, default=0, help="same seed, same rows")
        parser.add_argument(
            "--preview", action="store_true", help=f"show what becomes of the first {ROWS} rows instead"
        )
        parser.add_argument(
            "--wait", action="store_true", help="wait for the end, with a progress bar; runs it here without a worker"
        )

    def run(self, **options: Any) -> None:
        steps = self.steps(options)
        source = datasets.find_version(self.workspace, options["source"], field="source")
        if options["preview"]:
            answer = preparations.preview(source, steps, by=self.actor, seed=options["seed"])
            self.out(answer.model_dump(include={"rows", "steps"}), told(answer))
            return
        made = preparations.prepare(source, steps, by=self.actor, to=options["to"], seed=options["seed"])
        if options["wait"]:
            made = [self.waited_for(version) for version in made]
        self.out({"versions": [as_json(version) for version in made]}, "\n".join(words(version) for version in made))

    def steps(self, options: dict[str, Any]) -> list[Any]:
        """The steps of the file, then those of the command line. Raises CommandError for what is no YAML."""
        found: list[Any] = []
        if options["steps"]:
            read = self.document(options["steps"])
            read = read["steps"] if isinstance(read, dict) and set(read) == {"steps"} else read
            if not isinstance(read, list):
                raise CommandError("--steps: write a list of steps, or an object with the key 'steps'.")
            found += read
        for text in options["step"]:
            try:
                found.append(json.loads(text))
            except ValueError as error:
                raise CommandError(f"--step: {text[:60]!r} is not JSON: {error}") from None
        if not found:
            raise CommandError("Say what to do with --steps FILE or --step JSON.")
        return found

    def document(self, name: str) -> Any:
        try:
            text = sys.stdin.read(MOST_BYTES + 1) if name == "-" else _read(Path(name))
            if len(text) > MOST_BYTES:
                raise CommandError(f"--steps: {name} is larger than {MOST_BYTES:,} bytes.")
            return yaml.safe_load(text)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--steps: {name} can't be read: {error}.") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise CommandError(f"--steps: {name} is neither YAML nor JSON: {' '.join(str(error).split())}") from None

    def waited_for(self, version: DatasetVersion) -> DatasetVersion:
        job = Job.objects.get(pk=str(version.job_id))
        job = follow(job, by=self.actor, to=cast("IO[str]", self.stderr._out), quiet=self.options["json"])
        if job.state != JobState.SUCCEEDED:
            raise CommandError(f"{job.title}: {job.state}. {job.failure_message} {job.failure_hint}".strip())
        return DatasetVersion.objects.select_related("dataset").get(pk=version.pk)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(MOST_BYTES + 1)


def as_json(version: DatasetVersion) -> dict[str, Any]:
    return {
        "dataset": version.dataset_id,
        "version": version.pk,
        "reference": str(version),
        "part": version.part,
        "state": version.state,
        "rows": version.rows,
        "row_kind": version.row_kind,
        "digest": version.digest,
        "steps": version.steps,
        "job": version.job_id,
    }


def words(version: DatasetVersion) -> str:
    if not version.is_ready:
        return f"Job {version.job_id} makes {version}. Its page: /jobs/{version.job_id}/"
    lines = [f"{version} is ready: {version.rows:,} rows of kind {version.row_kind}, digest {version.digest[:12]}."]
    for tally in version.report["preparation"]["steps"]:
        changes = ", ".join(f"{tally[what]:,} {what}" for what in ("dropped", "changed", "added") if tally[what])
        lines.append(f"  {tally['number']}. {tally['type']}: {changes or 'nothing to do'}")
    return "\n".join(lines)


def told(answer: Answer) -> str:
    """The preview as lines of text."""
    lines: list[str] = []
    for row in answer.rows:
        lines.append(f"Row {row.number}: {_fate(row)}")
        if row.changed:
            lines += [f"  - {json.dumps(row.before, ensure_ascii=False)}"] if row.before else []
            lines += [f"  + {json.dumps(after, ensure_ascii=False)}" for after in row.after]
    return "\n".join(lines)


def _fate(row: Shown) -> str:
    if not row.after:
        return f"dropped by step {row.step} ({row.why})" if row.step else "dropped"
    kept = "changed" if row.changed else "as it was"
    return f"{kept}, to {row.part}" if row.part else kept
