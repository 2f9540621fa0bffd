"""`manage.py promote support-intents:3`"""

from typing import Any

from django.core.management.base import CommandParser

from project.kernel.commands import TuneloopCommand
from registry.actions import versions
from registry.actions.references import resolve
from registry.models import Stage


class Command(TuneloopCommand):
    help = "Make a version the one in production. The gates decide."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="name:3, name@stage or an id; a bare name means its version in staging")
        parser.add_argument("--comment", default="", help="kept in the record")

    def run(self, **options: Any) -> None:
        version = resolve(self.workspace, options["reference"], default_stage=Stage.STAGING, field="reference")
        versions.promote(version, by=self.actor, comment=options["comment"])
        data = {"model_version": version.pk, "reference": str(version), "stage": version.stage}
        self.out(data, f"{version} is in production.")
