"""`manage.py deploy support-intents --wait`"""

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.kernel.commands import TuneloopCommand
from registry.actions import deployments
from registry.actions.references import resolve
from registry.models import Deployment, DeploymentState

POLL = 0.5  # seconds


class Command(TuneloopCommand):
    help = "Make a version ready to answer."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="name (its version in production), name:3, name@stage or an id")
        parser.add_argument("--wait", action="store_true", help="wait until it answers (`serve` must be running)")
        parser.add_argument("--timeout", type=float, default=600.0, help="longest wait, in seconds")

    def run(self, **options: Any) -> None:
        version = resolve(self.workspace, options["reference"], field="reference")
        deployment = deployments.deploy(version, by=self.actor)
        if options["wait"]:
            self.wait(deployment, time.monotonic() + options["timeout"])
        data = {"deployment": deployment.pk, "model_version": version.pk, "reference": str(version)}
        self.out({**data, "state": deployment.state}, f"{version} is {deployment.state}.")

    def wait(self, deployment: Deployment, deadline: float) -> None:
        while not deployment.is_healthy:
            if deployment.state == DeploymentState.FAILED:
                raise CommandError(f"{deployment} failed: {deployment.failure}")
            if not deployment.wanted:
                raise CommandError(f"{deployment} was stopped meanwhile.")
            if time.monotonic() > deadline:
                raise CommandError(f"{deployment} is still {deployment.state}. Is `manage.py serve` running?")
            time.sleep(POLL)
            deployment.refresh_from_db()
