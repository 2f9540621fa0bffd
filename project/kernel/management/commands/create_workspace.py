from typing import Any

from django.core.management.base import CommandError, CommandParser

from project.kernel.actions import people
from project.kernel.commands import TuneloopCommand
from project.kernel.models import User


class Command(TuneloopCommand):
    help = "Make a workspace, with an owner who has an account already."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--owner", required=True, help="user name of its first owner")

    def run(self, **options: Any) -> None:
        owner = User.objects.filter(username=options["owner"]).first()
        if owner is None:
            raise CommandError(f"There is no user '{options['owner']}'.")
        workspace = people.create_workspace(options["name"], owner=owner)
        self.out({"id": workspace.pk, "name": workspace.name, "slug": workspace.slug}, f"{workspace.slug}")
