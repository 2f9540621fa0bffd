from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from project.kernel.actions import tokens
from project.kernel.commands import TuneloopCommand
from project.kernel.models import Role
from project.kernel.models.people import SCOPES


class Command(TuneloopCommand):
    help = "Make an API token and print its secret, which is shown only now. For scripts: --json."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--role", default=Role.EDITOR.value, help=f"one of: {', '.join(Role.values)}")
        parser.add_argument("--name", default="command line", help="what will use it")
        parser.add_argument("--scope", action="append", default=[], dest="scopes", help=f"any of: {', '.join(SCOPES)}")
        parser.add_argument("--expires-in-days", type=int, default=0, help="0 means never")

    def run(self, **options: Any) -> None:
        days = options["expires_in_days"]
        token, secret = tokens.create(
            name=options["name"],
            role=options["role"],
            scopes=options["scopes"],
            expires_at=timezone.now() + timedelta(days=days) if days else None,
            by=self.actor,
        )
        data = {
            "id": token.pk,
            "name": token.name,
            "workspace": self.workspace.slug,
            "role": token.role,
            "scopes": token.scopes,
            "expires_at": token.expires_at,
            "token": secret,
        }
        self.out(data, secret)
