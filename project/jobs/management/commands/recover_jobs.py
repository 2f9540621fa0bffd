from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from project.jobs.reaper import recover_host


class Command(BaseCommand):
    help = "Kill what dead workers left running on this host and queue their jobs again. Workers do it by themselves."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{recover_host(settings.HOST_NAME)} jobs queued again.")
