"""The Celery app. It carries job ids and nothing else: see project.jobs."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("tuneloop")


def _configure() -> None:
    from django.conf import settings

    app.conf.update(settings.CELERY)


_configure()
app.autodiscover_tasks()
