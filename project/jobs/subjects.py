"""What a job works for, in links: the app that started it says so on the job's page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from project.jobs.models import Job


@dataclass(frozen=True)
class Link:
    """One line among the job's facts: 'Base model', 'tiny:1', where it is shown ('' = nowhere)."""

    label: str
    text: str
    url: str = ""


_hooks: dict[str, Callable[[Job], Sequence[Link]]] = {}


def register(kind: str, hook: Callable[[Job], Sequence[Link]]) -> None:
    """Called in `AppConfig.ready()`: `hook(job)` for jobs whose `subject_kind` is `kind`."""
    _hooks[kind] = hook


def of(job: Job) -> Sequence[Link]:
    """The links of a job; none for a kind that nobody registered."""
    hook = _hooks.get(job.subject_kind)
    return hook(job) if hook else ()
