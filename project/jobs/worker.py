"""The jobs' side of a worker process: a dispatcher that lives as long as Celery's consumer does."""

from project.jobs.dispatcher import Dispatcher

_running: list[Dispatcher] = []


def wake() -> None:
    """Look for work now. Does nothing in a process that is no worker."""
    for dispatcher in _running:
        dispatcher.wake()
