"""What every command shares: a workspace, an actor, `--json`, and one clear line when something is wrong."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from project.kernel.access import Actor
from project.kernel.errors import Problem
from project.kernel.models import Workspace


class TuneloopCommand(BaseCommand):
    """Subclasses write `arguments` and `run`; a Problem becomes one line on stderr and exit code 1."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--workspace", default="", help="slug of the workspace (default: the only one)")
        parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
        self.arguments(parser)

    def arguments(self, parser: CommandParser) -> None:
        """Add this command's own arguments."""

    def run(self, **options: Any) -> None:
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        self.options = options
        try:
            self.run(**options)
        except Problem as problem:
            raise CommandError(problem.detail) from problem
        except KeyboardInterrupt:
            self.stderr.write("Stopped.")
            sys.exit(130)

    @property
    def workspace(self) -> Workspace:
        slug = self.options["workspace"]
        found = list(Workspace.objects.filter(slug=slug) if slug else Workspace.objects.all()[:2])
        if len(found) == 1:
            return found[0]
        if slug:
            raise CommandError(f"There is no workspace '{slug}'.")
        if found:
            known = ", ".join(Workspace.objects.values_list("slug", flat=True)[:20])
            raise CommandError(f"There are several workspaces; name one with --workspace: {known}.")
        raise CommandError("There is no workspace yet; `manage.py start` or `manage.py create_workspace` makes one.")

    @property
    def actor(self) -> Actor:
        """Whoever has a shell on this machine acts as the named system actor 'command'."""
        return Actor.system("command", self.workspace)

    def out(self, data: dict[str, Any], text: str) -> None:
        """Print `data` with --json, else `text`."""
        self.stdout.write(json.dumps(data, indent=2, default=str) if self.options["json"] else text)
