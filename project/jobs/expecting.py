"""When a waiting job will probably start, from what runs now and from how long such jobs took lately."""

import heapq
from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import median

from django.conf import settings
from django.db.models.functions import Now
from django.utils import timezone

from project.jobs.models import ACTIVE, DeviceSlot, Job, JobState, Worker

LATELY = 20  # jobs of a recipe whose time is looked at
MOST = 200  # waiting jobs that are counted one by one


def expected_start(job: Job) -> datetime | None:
    """None when it does not wait, when nobody works on its queue, or when too little is known to tell.

    Every place of the queue takes the next job as it becomes free. What runs needs its ETA; what waits before needs as
    long as the last jobs of its recipe did in the median.
    """
    if job.state != JobState.QUEUED:
        return None
    now = timezone.now()
    usual = _Usual()
    free = _free_at(job.queue, now, usual)
    if free is None:
        return None
    ahead = job.ahead().only("recipe", "queue")[: MOST + 1]
    begin = _after(free, [usual.seconds(each.recipe) for each in ahead])
    if begin is None:
        return None
    return max(begin, job.run_after) if job.run_after else begin


def _free_at(queue: str, now: datetime, usual: "_Usual") -> list[datetime | None] | None:
    """When each place of the queue on hosts with a living worker is free; None inside: not known."""
    alive = Worker.objects.filter(heartbeat_at__gt=Now() - timedelta(seconds=3 * settings.JOB_BEAT), draining=False)
    hosts = {worker.host for worker in alive if queue in worker.queues}
    slots = DeviceSlot.objects.filter(host__in=hosts, queue=queue, holder="").select_related("job")
    if not slots:
        return None
    return [_end(slot.job, now, usual) if slot.job else now for slot in slots]


def _end(job: Job, now: datetime, usual: "_Usual") -> datetime | None:
    left = job.eta_seconds
    if left is None:
        seconds = usual.seconds(job.recipe)
        if seconds is None or job.state not in ACTIVE:
            return None
        left = max(0.0, seconds - (job.duration or timedelta()).total_seconds())
    return now + timedelta(seconds=left)


def _after(free: Iterable[datetime | None], ahead: list[float | None]) -> datetime | None:
    """When the first place is free after the jobs `ahead` (seconds each) have taken theirs; None: can't be told."""
    known = [at for at in free if at is not None]
    if not known or len(ahead) > MOST or None in ahead:
        return None
    heapq.heapify(known)
    for seconds in ahead:
        heapq.heappush(known, heapq.heappop(known) + timedelta(seconds=seconds or 0.0))
    return known[0]


class _Usual:
    """How long jobs of a recipe took lately, asked once each."""

    def __init__(self) -> None:
        self._known: dict[str, float | None] = {}

    def seconds(self, recipe: str) -> float | None:
        if recipe not in self._known:
            ended = Job.objects.filter(recipe=recipe, state=JobState.SUCCEEDED).order_by("-finished_at")
            took = list(ended.values_list("worked", flat=True)[:LATELY])
            self._known[recipe] = median(took) if took else None
        return self._known[recipe]
