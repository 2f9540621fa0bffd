"""`manage.py evaluate --model support-intents:3 --data held-out --output results.json`"""

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.jobs.following import follow
from project.jobs.models import JobState
from project.kernel.commands import TuneloopCommand
from training import answers
from training.actions import evaluations
from training.management.commands.train import score_line
from training.models import Evaluation
from training.planning import find_data, find_version, found_at


class Command(TuneloopCommand):
    help = "Measure a version on a data set and wait for the numbers. Without a running worker it runs here."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model", required=True, metavar="REF", help="an id, name, name@stage or name:3")
        parser.add_argument("--data", required=True, metavar="REF", help="an id, name or name:3")
        parser.add_argument(
            "--metrics",
            default=",".join(evaluations.DEFAULT_METRICS),
            help="separated by commas (default: %(default)s)",
        )
        parser.add_argument("--limit", type=int, default=None, help="at most so many rows")
        parser.add_argument("--max-new-tokens", type=int, default=None, help="longest answer, in tokens")
        parser.add_argument("--output", default="", metavar="FILE", help="write scores and answers to this JSON file")

    def run(self, **options: Any) -> None:
        output = Path(options["output"]) if options["output"] else None
        if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
            raise CommandError(f"--output: {output} can't be written: there is no such folder, or it is one.")
        version = found_at("model", lambda: find_version(options["model"], workspace=self.workspace))
        data = found_at("data", lambda: find_data(options["data"], workspace=self.workspace))
        job = evaluations.launch(
            version,
            data,
            metrics=[name.strip() for name in options["metrics"].split(",") if name.strip()],
            limit=options["limit"],
            max_new_tokens=options["max_new_tokens"],
            by=self.actor,
        )
        if warning := job.evaluation.warning:
            self.stderr.write(self.style.WARNING(f"Warning: {warning}"))
        job = follow(job, by=self.actor, to=sys.stderr, quiet=options["json"])
        if job.state != JobState.SUCCEEDED:
            raise CommandError(f"The evaluation {job.state}: {job.failure_message} {job.failure_hint}".strip())
        evaluation = Evaluation.objects.select_related("version__model", "data_version__dataset").get(job=job)
        result = as_document(evaluation)
        if output is not None:
            rows = [answer.as_dict() for answer in answers.read(evaluation)]
            output.write_text(json.dumps({**result, "answers": rows}, indent=2, ensure_ascii=False, default=str))
        lines = [f"{evaluation}: {evaluation.rows} rows", *map(score_line, evaluation.scores)]
        self.out(result, "\n".join(lines))


def as_document(evaluation: Evaluation) -> dict[str, Any]:
    """What scripts get. Documented in /docs/evaluation/."""
    return {
        "evaluation": evaluation.pk,
        "job": evaluation.job_id,
        "version": evaluation.version.reference,
        "model_version": evaluation.version_id,
        "data": evaluation.data_label,
        "dataset_version": evaluation.data_version_id,
        "data_digest": evaluation.rows_digest,
        "rows": evaluation.rows,
        "scores": evaluation.scores,
        "warnings": [evaluation.warning] if evaluation.warning else [],
    }
