"""`manage.py job pause ID`"""

from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access
from project.kernel.commands import TuneloopCommand

VERBS = {"start": jobs.start, "pause": jobs.pause, "resume": jobs.resume, "cancel": jobs.cancel, "retry": jobs.retry}


class Command(TuneloopCommand):
    help = "Look at a job (show), at all that wait or run (list), or start, pause, resume, cancel or retry one."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("verb", choices=("list", "show", *VERBS))
        parser.add_argument("job", nargs="?", default="", help="its id, or the last six characters of it")
        parser.add_argument("--remedy", default="", help="with retry: what to change, as `show` names it")
        parser.add_argument(
            "--from-checkpoint",
            nargs="?",
            type=int,
            const=True,
            default=False,
            metavar="STEP",
            help="with retry: go on from its furthest checkpoint, or from that of a step",
        )

    def run(self, **options: Any) -> None:
        if options["verb"] == "list":
            self._list()
            return
        job = self._find(options["job"])
        if options["verb"] == "retry":
            start = options["from_checkpoint"]
            job = jobs.retry(job, self.actor, remedy=options["remedy"], from_checkpoint=start)
        elif options["verb"] != "show":
            job = VERBS[options["verb"]](job, self.actor)
        self._say(job)

    def _find(self, text: str) -> Job:
        rows = access.visible(Job.objects.all(), self.actor)
        try:
            return access.find(rows, self.actor, pk=UUID(text))
        except ValueError:
            found = [job for job in rows.order_by("-id")[:1000] if text and str(job.pk).endswith(text)]
        if len(found) != 1:
            raise CommandError(f"{'Several jobs end' if found else 'No job ends'} with '{text}'; give the whole id.")
        return found[0]

    def _list(self) -> None:
        waiting = access.visible(Job.objects.filter(finished_at=None), self.actor).order_by("-id")[:100]
        lines = "\n".join(_line(job) for job in waiting)
        self.out({"jobs": [_document(job) for job in waiting]}, lines or "Nothing waits or runs.")

    def _say(self, job: Job) -> None:
        lines = [f"{job.title}: {job.state}{', stopping' if job.is_cancelling else ''} {_percent(job)}".rstrip()]
        lines += [f"place {job.position()} in the queue"] if job.position() else []
        lines += [job.failure_message, job.failure_hint] if job.failure_message else []
        lines += [f"retry --remedy {remedy.key}: {remedy.label}" for remedy in jobs.remedies(job)]
        self.out(_document(job), "\n".join(line for line in lines if line))


def _line(job: Job) -> str:
    return f"{str(job.pk)[-6:]}  {job.state:<9} {_percent(job):>5}  {job.recipe:<14} {job.title}"


def _percent(job: Job) -> str:
    return f"{job.percent:.0f} %" if job.percent is not None else ""


def _document(job: Job) -> dict[str, Any]:
    return {
        "job": str(job.pk),
        "title": job.title,
        "recipe": job.recipe,
        "state": job.state,
        "step": job.step,
        "total": job.total,
        "position": job.position(),
        "failure": job.failure_class,
        "message": job.failure_message,
        "remedies": {remedy.key: remedy.label for remedy in jobs.remedies(job)},
    }
