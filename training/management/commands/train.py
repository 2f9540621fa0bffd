"""`manage.py train --config job.yaml --wait`"""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.jobs.following import follow
from project.jobs.models import Job, JobState
from project.kernel.commands import TuneloopCommand
from training.actions import finetunes
from training.documents import read_yaml_or_json
from training.jobfile import parse
from training.models import Evaluation


class Command(TuneloopCommand):
    help = "Start a fine-tune from a job file in YAML or JSON (docs: /docs/training/)."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--config", required=True, metavar="FILE", help="the job file; - reads standard input")
        parser.add_argument(
            "--wait", action="store_true", help="wait for the end, with a progress bar; runs it here without a worker"
        )
        parser.add_argument("--draft", action="store_true", help="leave it as a draft that somebody starts later")

    def run(self, **options: Any) -> None:
        if options["wait"] and options["draft"]:
            raise CommandError("--draft leaves the job waiting for its start, so there is nothing to --wait for.")
        config = parse(read_yaml_or_json(text_of(options["config"])))
        job = finetunes.launch(config, by=self.actor, start=not options["draft"])
        if not options["wait"]:
            self.out(
                {"job": job.pk, "state": job.state},
                f"Job {job.pk} is {job.state}. Its page: /jobs/{job.pk}/",
            )
            return
        job = self.finish(job)
        evaluation = None
        if "evaluation_job" in job.result:
            self.finish(Job.objects.get(pk=job.result["evaluation_job"]))
            evaluation = Evaluation.objects.get(pk=job.result["evaluation"])
        data = {
            "job": job.pk,
            "state": job.state,
            "model_version": job.result["model_version"],
            "reference": job.result["version"],
            "result": job.result,
            "scores": evaluation.scores if evaluation else [],
        }
        self.out(data, self.words(job, evaluation))

    def finish(self, job: Job) -> Job:
        """Raises CommandError, in the job's own words, when it does not succeed."""
        job = follow(job, by=self.actor, to=sys.stderr, quiet=self.options["json"])
        if job.state != JobState.SUCCEEDED:
            why = f"{job.failure_field}: {job.failure_message}" if job.failure_field else job.failure_message
            raise CommandError(f"{job.title}: {job.state}. {why} {job.failure_hint}".strip())
        return job

    def words(self, job: Job, evaluation: Evaluation | None) -> str:
        result = job.result
        lines = [f"{result['version']} is there: {result['steps']} steps, training loss {result['train_loss']:.4f}."]
        lines += [score_line(score) for score in evaluation.scores] if evaluation else []
        if problem := result.get("evaluation_problem"):
            lines.append(f"It was not evaluated: {problem}")
        return "\n".join(lines)


def text_of(path: str) -> str:
    """The content of a file, or of standard input for '-'. Raises CommandError."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not a text file in UTF-8.") from None


def score_line(score: dict[str, Any]) -> str:
    """'exact_match 0.853 (0.79 to 0.901), 150 rows'"""
    between = f" ({score['low']:.4g} to {score['high']:.4g})" if score.get("low") is not None else ""
    return f"{score['metric']} {score['value']:.4g}{between}, {score['n']} rows"
