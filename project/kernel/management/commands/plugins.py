import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from project.contracts.plugins import PLUGINS


class Command(BaseCommand):
    help = "List every plug-in by kind, and those that could not be loaded with the reason."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        kinds: dict[str, dict[str, list[Any]]] = {
            kind.kind: {
                "names": kind.names(),
                "broken": [{"module": broken.module, "reason": broken.reason} for broken in kind.broken()],
            }
            for kind in PLUGINS
        }
        if options["json"]:
            self.stdout.write(json.dumps(kinds, indent=2))
            return
        for kind, found in kinds.items():
            self.stdout.write(f"{kind}: {', '.join(found['names']) or 'none'}")
            for broken in found["broken"]:
                self.stdout.write(f"  broken: {broken}")
