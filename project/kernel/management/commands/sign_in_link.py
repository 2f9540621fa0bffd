from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from project.kernel.actions import people
from project.kernel.models import User


class Command(BaseCommand):
    help = "Print a link that signs a person in once, within 30 minutes (default: the first operator)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", nargs="?", default="")
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the product is reached")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["username"]:
            user = User.objects.filter(username=options["username"], is_active=True).first()
        else:
            user = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if user is None:
            raise CommandError("There is no such active account. `manage.py start` makes the first one.")
        self.stdout.write(f"{options['url'].rstrip('/')}/sign-in/{people.sign_in_link(user)}/")
