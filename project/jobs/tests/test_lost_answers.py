"""A commit may be done although its answer was lost: whatever is tried again then must not happen twice."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import OperationalError, connection

from project.jobs import slots
from project.jobs.claim import claim
from project.jobs.dispatcher import Dispatcher
from project.jobs.identity import Identity
from project.jobs.models import Job, JobEvent, Metric
from project.jobs.supervisor import Supervisor
from project.jobs.tests.chaos import seeds
from project.jobs.tests.stack import until
from project.jobs.tests.test_launch import launch
from project.kernel import artifacts
from project.kernel.models import Artifact
from project.testing import Cast


@pytest.fixture
def committed(transactional_db: None, cast: Cast) -> Cast:
    """The cast in a database where commits are commits."""
    return cast


@contextmanager
def lost_answers(chance: float, seed: int) -> Iterator[list[str]]:
    """Of the commits in this block, a part is done and then reported as failed. Yields where."""
    draw, commit, lost = random.Random(seed), connection.commit, []

    def commit_and_lose() -> None:
        commit()
        if draw.random() < chance:
            lost.append("commit")
            raise OperationalError("the connection was closed before the answer came")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "commit", commit_and_lose)
        yield lost


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("chance", [0.3, 1.0])
def test_nothing_happens_twice_when_answers_are_lost(committed: Cast, chance: float, seed: int) -> None:
    job = launch(committed, params={"steps": 30, "pause": 0.02, "checkpoint_every": 10})
    slots.ensure(settings.HOST_NAME, job.queue)
    taken = claim(job.queue, host=settings.HOST_NAME, owner=str(Identity.mine()))
    assert taken is not None
    with lost_answers(chance, seed) as lost:
        if chance == 1.0:  # nothing is ever confirmed: only what is written last can be missing
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(settings, "JOB_GRACE", 2.0)
                Supervisor(taken).run()
        else:
            Supervisor(taken).run()
    assert lost
    job.refresh_from_db()
    assert job.attempts.filter(outcome="succeeded").count() == (job.state == "succeeded")
    seqs = list(JobEvent.objects.filter(job=job).order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, job.last_seq + 1))
    if chance < 1.0:
        assert (job.state, job.attempt) == ("succeeded", 1)
        steps = Metric.objects.filter(job=job, key="loss").order_by("step").values_list("step", flat=True)
        assert list(steps) == list(range(1, 31))
        assert job.artifact is not None and artifacts.verify(job.artifact) == []
        assert Artifact.objects.count() == 1
        assert list(job.checkpoints.values_list("step", flat=True)) == [30, 20, 10]


def test_a_claim_whose_answer_was_lost_is_given_back_by_its_own_worker(committed: Cast) -> None:
    job = launch(committed, params={"steps": 3})
    dispatcher = Dispatcher([job.queue])
    slots.ensure(settings.HOST_NAME, job.queue)
    with lost_answers(1.0, seed=1), pytest.raises(OperationalError):
        claim(job.queue, host=settings.HOST_NAME, owner=str(dispatcher.identity))
    assert Job.objects.get(pk=job.pk).state == "running"  # and nobody knows
    dispatcher.start()
    try:
        until(lambda: Job.objects.get(pk=job.pk).is_terminal, "its end")
    finally:
        dispatcher.drain()
        assert dispatcher.join(30)
    job.refresh_from_db()
    lost, won = job.attempts.order_by("number")
    assert (job.state, lost.outcome, won.outcome) == ("succeeded", "lost", "succeeded")
