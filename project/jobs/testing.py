"""For tests of every app: run a queued job to its end here and now, with a real engine process."""

import time

from django.conf import settings

from project.jobs import slots
from project.jobs.claim import claim
from project.jobs.identity import Identity
from project.jobs.models import Job, Queue
from project.jobs.supervisor import Supervisor


def run_to_end(job: Job, *, attempts: int = 4) -> Job:
    """Claim `job` and supervise it in this thread until it has ended; returns it as the database then has it.

    Raises AssertionError when it can't be claimed: it is a draft, or the places of this host are taken.
    """
    owner = str(Identity.mine())
    for queue in Queue.values:
        slots.ensure(settings.HOST_NAME, queue)
    for _ in range(attempts):
        taken = None
        deadline = time.monotonic() + 30
        while taken is None and time.monotonic() < deadline:  # a lost try is followed by a short pause
            taken = claim(job.queue, host=settings.HOST_NAME, owner=owner, job_id=job.pk)
            job.refresh_from_db()
            if taken is None:
                assert job.state == "queued" and job.run_after, f"{job} can't be claimed: it is {job.state}"  # noqa: S101
                time.sleep(0.05)
        assert taken is not None  # noqa: S101
        Supervisor(taken).run()
        job.refresh_from_db()
        if job.is_terminal:
            break
    return job
