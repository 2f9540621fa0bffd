"""`manage.py suggest_preparation intents:1 --steps > steps.yaml`"""

from typing import Any

import yaml
from django.core.management.base import CommandParser

from datasets_app import suggesting
from datasets_app.actions import datasets
from project.kernel.commands import TuneloopCommand


class Command(TuneloopCommand):
    help = "The few changes to a data set version that are most likely to help, each with its evidence and its steps."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="name, name:3 or an id")
        parser.add_argument(
            "--held-out",
            action="append",
            default=[],
            metavar="REF",
            help="a version that models are measured on: look for its rows here too; may be given several times",
        )
        parser.add_argument(
            "--steps", action="store_true", help="print the steps of all of them as YAML, for prepare_dataset --steps"
        )

    def run(self, **options: Any) -> None:
        version = datasets.resolve(self.workspace, options["reference"], field="reference")
        against = [datasets.resolve(self.workspace, name, field="held_out") for name in options["held_out"]]
        found = suggesting.all_as_json(version, suggesting.of(version, against))
        if options["steps"]:
            self.out(found, yaml.safe_dump(found["steps"], sort_keys=False, allow_unicode=True).rstrip("\n"))
        else:
            self.out(found, told(found))


def told(found: dict[str, Any]) -> str:
    """The suggestions as lines of text."""
    lines = []
    for number, one in enumerate(found["suggestions"], 1):
        lines += [f"{number}. {one['title']}", *(f"   {one[what]}" for what in ("evidence", "why", "effect"))]
        lines += [f"   {_on_one_line(step)}" for step in one["steps"]]
    return "\n".join(lines) or f"Nothing to suggest for {found['reference']}."


def _on_one_line(step: dict[str, Any]) -> str:
    """The order of parts counts: the first is to learn from."""
    return str(yaml.safe_dump(step, default_flow_style=True, sort_keys=False, width=10_000)).strip()
