"""`manage.py lift_block support:3 --reason "The key is the manual's example."`"""

from typing import Any

from django.core.management.base import CommandParser

from datasets_app.actions import blocks, datasets
from project.kernel.commands import TuneloopCommand


class Command(TuneloopCommand):
    help = "Let people train on a version with fatal findings. The reason is kept and audited."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="name:3 or an id")
        parser.add_argument("--reason", required=True, help="why it may be trained on all the same")

    def run(self, **options: Any) -> None:
        version = datasets.resolve(self.workspace, options["reference"], field="reference")
        version = blocks.lift(version, options["reason"], by=self.actor)
        self.out({"reference": str(version), "blocked": version.blocked}, f"{version} may be trained on now.")
