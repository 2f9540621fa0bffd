"""`manage.py register_checkpoint JOB STEP`"""

import sys
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from project.jobs.following import follow
from project.jobs.models import Job, JobState
from project.kernel import access
from project.kernel.commands import TuneloopCommand
from training.actions import checkpoints


class Command(TuneloopCommand):
    help = "Make a version of a model out of a checkpoint of a fine-tune. Without a running worker it runs here."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", type=UUID, help="the fine-tune's job")
        parser.add_argument("step", type=int, help="of the checkpoint, as its page or the API lists it")
        parser.add_argument("--model", default="", metavar="NAME", help="default: the model the fine-tune is for")

    def run(self, **options: Any) -> None:
        source = access.find(Job.objects.all(), self.actor, pk=options["job"])
        job = checkpoints.register_checkpoint(source, options["step"], by=self.actor, model=options["model"])
        job = follow(job, by=self.actor, to=sys.stderr, quiet=options["json"])
        if job.state != JobState.SUCCEEDED:
            raise CommandError(f"It {job.state}: {job.failure_message} {job.failure_hint}".strip())
        data = {"job": job.pk, "model_version": job.result["model_version"], "reference": job.result["version"]}
        self.out(data, f"{job.result['version']} is registered.")
