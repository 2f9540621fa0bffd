"""The jobs' side of a Celery worker process: a dispatcher that lives as long as Celery's consumer does.

Workers use Celery's solo pool (settings.py): a task only wakes the dispatcher, so there is nothing to share out, and
nothing is ever forked from a process that has threads. With a pool of processes the task would wake nobody.
"""

import logging
from contextlib import suppress
from typing import Any

from celery.signals import worker_ready, worker_shutdown, worker_shutting_down
from django.conf import settings
from django.db import DatabaseError

from project.jobs import keeping
from project.jobs.dispatcher import Dispatcher
from project.jobs.models import Queue
from project.kernel.processes import settle

log = logging.getLogger(__name__)
_running: list[Dispatcher] = []


def wake() -> None:
    """Look for work now. Does nothing in a process that is no worker."""
    for dispatcher in _running:
        dispatcher.wake()


@worker_ready.connect  # type: ignore[untyped-decorator]
def begin(sender: Any, **_: Any) -> None:
    """Celery consumes: take jobs of the same queues."""
    queues = set(sender.app.amqp.queues.consume_from) & set(Queue.values)
    if queues and not _running:
        dispatcher = Dispatcher(queues)
        _running.append(dispatcher)
        dispatcher.start()
        log.info("worker %s takes jobs of: %s", dispatcher.identity, ", ".join(sorted(queues)))
        with suppress(DatabaseError):
            keeping.clear_old()  # every host its own folders; beat's task reaches one of them only
        settle()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def drain(**_: Any) -> None:
    """Told to stop: let engines save and stop."""
    for dispatcher in _running:
        dispatcher.drain()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def finish(**_: Any) -> None:
    """Celery is done; the process may end when the engines have."""
    for dispatcher in _running:
        dispatcher.drain()
        if not dispatcher.join(settings.JOB_STOP_TIMEOUT + 30):
            log.error("worker: its jobs did not stop in time")
    _running.clear()
