"""Real processes that die, fall silent and come back at random moments: nothing is lost, nothing happens twice.

FAULT_SEED=1,2,3 runs each test with these seeds; the seed of a failed test is in its output.
"""

import threading
from collections import Counter
from contextlib import suppress

import psutil
import pytest

from project.jobs import reaper
from project.jobs.actions import jobs
from project.jobs.models import Job, Metric
from project.jobs.tests.chaos import Chaos, actor, is_over, patiently, seeds
from project.jobs.tests.promises import check_promises
from project.jobs.tests.servers import Postgres, Redis
from project.jobs.tests.stack import LEASE, Stack, ended, engines_in, processes_below, stepping, until

pytestmark = pytest.mark.full
INTERVAL = 10  # steps between two checkpoints
PATIENT = {"JOB_LEASE": "30"}  # where leases are not the point: a busy machine must not cost a try


def check_little_was_lost(job: Job) -> None:
    """Each try begins at most one checkpoint interval before the point that the one before it had reached."""
    reached = 0
    for attempt in job.attempts.order_by("number"):
        steps = Metric.objects.filter(job=job, key="loss", attempt=attempt.number).order_by("step")
        first, last = steps.first(), steps.last()
        if first is not None and last is not None:
            assert first.step > reached - INTERVAL, f"{attempt} began at {first.step}; before it {reached} was reached"
            reached = max(reached, last.step)


def kill_this_and_that(chaos: Chaos, times: int) -> None:
    for _ in range(times):
        chaos.wait(0.2, 1.0)
        chaos.random.choice([chaos.kill_worker, chaos.kill_engine, chaos.kill_both])()
        chaos.keep_workers()


@pytest.mark.parametrize("seed", seeds(1101))
def test_workers_and_engines_killed_at_random_moments(stack: Stack, seed: int) -> None:
    chaos = Chaos(stack, seed)
    submitted = chaos.submit(8)
    kill_this_and_that(chaos, 8)
    chaos.finish()
    for job in submitted:
        job.refresh_from_db()
        # More than three losses in a row without a new checkpoint is the only way not to succeed.
        assert job.state == "succeeded" or "not tried again" in job.failure_message, job.failure_message
        check_little_was_lost(job)
    assert any(job.attempt > 1 for job in submitted) or chaos.counts().keys() == {"kill worker"}
    check_promises(stack)


@pytest.mark.parametrize("seed", seeds(1102))
def test_the_same_on_postgresql_and_redis_with_two_of_everything(services: Stack, seed: int) -> None:
    chaos = Chaos(services, seed)
    services.beat()
    services.beat()
    stop = threading.Event()
    sweepers = [threading.Thread(target=_sweep_until, args=(stop,)) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    submitted = chaos.submit(6)
    chaos.freeze_worker()
    chaos.repeat_messages()
    kill_this_and_that(chaos, 5)
    chaos.finish()
    stop.set()
    for sweeper in sweepers:
        sweeper.join()
    for job in submitted:
        check_little_was_lost(job)
    check_promises(services)


def _sweep_until(stop: threading.Event) -> None:
    """A reaper of its own, beside those of the workers."""
    from project.jobs.tests.stack import own_connection

    with own_connection():
        while not stop.wait(0.1):
            reaper.sweep()


@pytest.mark.parametrize("seed", seeds(1103))
def test_a_supervisor_that_was_silent_writes_nothing_when_it_comes_back(stack: Stack, seed: int) -> None:
    chaos = Chaos(stack, seed)
    stack.beat()
    [job] = chaos.submit(steps=200, pause=0.04)
    attempt = stepping(job, chaos.random.randrange(1, 30))
    chaos.workers.sort(key=lambda worker: f" {worker.pid} " not in attempt.owner)
    chaos.random.choice = lambda options: options[0]  # type: ignore[method-assign, assignment]
    chaos.freeze_worker()
    until(lambda: Job.objects.get(pk=job.pk).attempt == 2, "a second try")
    until(lambda: is_over(attempt.pid), "the old engine's end", 10)
    chaos.finish()
    job.refresh_from_db()
    lost, *_, won = job.attempts.order_by("number")
    assert (job.state, lost.outcome, won.outcome) == ("succeeded", "lost", "succeeded")
    check_promises(stack)


@pytest.mark.parametrize("seed", seeds(1104))
def test_paused_resumed_drained_and_cancelled_at_random_moments(stack: Stack, seed: int) -> None:
    chaos = Chaos(stack, seed)
    chaos.submit(8)
    for _ in range(25):
        chaos.wait(0.05, 0.4)
        acts = [chaos.pause, chaos.pause, chaos.pause, chaos.resume, chaos.resume, chaos.cancel, chaos.drain_worker]
        chaos.random.choices(acts, weights=[4, 4, 4, 4, 4, 1, 2])[0]()
        chaos.keep_workers()
    chaos.finish()
    for job in Job.objects.all():
        assert job.state in ("succeeded", "cancelled")
        assert set(job.attempts.values_list("outcome", flat=True)) <= {"succeeded", "cancelled", "paused", "drained"}
        check_little_was_lost(job)
    check_promises(stack)


MOMENTS = {
    "draft": lambda job: job.state == "draft",
    "queued": lambda job: job.state == "queued" and job.attempt == 0,
    "claimed": lambda job: job.state == "running",
    "engine": lambda job: job.attempts.exclude(pid=None).exists(),
    "running": lambda job: job.step >= 3,
    "saving": lambda job: any(job.run_folder(1).glob("tmp/state")),
    "saved": lambda job: any(job.run_folder(1).glob("checkpoints/step-*")),
    "finishing": lambda job: any(job.run_folder(1).glob("artifact/*")) or job.is_terminal,
    "pausing": lambda job: job.state == "pausing",
    "paused": lambda job: job.state == "paused",
}


@pytest.mark.parametrize("seed", seeds(1105))
def test_cancelled_at_every_moment_of_a_life(stack: Stack, seed: int) -> None:
    Chaos(stack, seed, size=1, more={"MAX_CPU_JOBS": "5"})
    waiting: dict[Job, str] = {}
    for moment in [*MOMENTS, *MOMENTS]:
        params = {"steps": 12, "pause": 0.04, "checkpoint_every": 5, "slow_save": 0.3 if "sav" in moment else 0.0}
        job = stack.launch("fragile", start=moment != "draft", **params)
        waiting[job] = moment
    cancelled: list[Job] = []

    def act() -> bool:
        for job, moment in list(waiting.items()):
            job.refresh_from_db()
            if moment.startswith("paus") and job.can_pause and job.step >= 2:
                jobs.pause(job, by=actor(job))
                job.refresh_from_db()
            if MOMENTS[moment](job) or job.is_terminal:
                del waiting[job]
                if not job.is_terminal:
                    jobs.cancel(job, by=actor(job))
                    cancelled.append(job)
        return not waiting

    until(act, "every moment")
    for job in Job.objects.all():
        done = ended(job, 30)
        assert done.state in ("cancelled", "succeeded"), done.failure_message
        assert done.attempt <= 1
    assert len(cancelled) >= len(MOMENTS)
    until(lambda: not engines_in(stack.data), "the end of every engine", 5)
    check_promises(stack)


SUBMIT = """
from django.contrib.auth import get_user_model
from project.jobs.actions import jobs
from project.kernel.access import Actor
from project.kernel.models import Workspace
workspace = Workspace.objects.get(slug="acme")
by = Actor.system("test", workspace)
for number in range({count}):
    jobs.launch("{recipe}", {{"steps": 1}}, workspace=workspace, by=by, title=f"burst {{number}}")
print("submitted")
"""


def submit_burst(stack: Stack, count: int, times: int, recipe: str = "count") -> None:
    """From processes with the stack's own broker: their rings are real ones."""
    stack.launch(recipe, steps=1)  # makes the workspace
    for _ in range(times):
        stack.manage("shell", "-c", SUBMIT.format(count=count // times, recipe=recipe))


@pytest.mark.parametrize("seed", seeds(1106))
def test_a_broker_that_is_killed_and_emptied_during_a_burst(services: Stack, seed: int) -> None:
    redis = Redis()
    redis.start()
    services.redis_url = redis.url
    try:
        chaos = Chaos(services, seed, size=1, more={"queues": "gpu", "MAX_TRAINING_JOBS": "8", **PATIENT}, redis=redis)
        services.beat()
        until(lambda: _is_forked(chaos), "a warm parent", 90)  # without one the burst takes minutes
        before = Job.objects.count()
        submit_burst(services, 200, times=2, recipe="tally")
        senders = services.processes[-2:]
        until(lambda: Job.objects.count() > before + 20, "the burst")
        chaos.lose_messages()
        chaos.wait()
        chaos.kill_broker()
        for sender in senders:
            assert sender.wait(60) == 0, "submitting must not depend on the broker"
        chaos.repeat_messages()
        chaos.lose_messages()
        chaos.finish(180)
        assert Counter(Job.objects.values_list("state", "attempt")) == {("succeeded", 1): before + 201}
        check_promises(services)
    finally:
        services.stop()
        redis.close()


@pytest.mark.parametrize("seed", seeds(1107))
def test_an_embedded_broker_that_is_emptied_damaged_and_removed_during_a_burst(stack: Stack, seed: int) -> None:
    chaos = Chaos(stack, seed, size=2, more={"MAX_CPU_JOBS": "4", **PATIENT})
    stack.beat()
    workers = list(chaos.workers)
    submit_burst(stack, 30, times=2)
    senders = stack.processes[-2:]
    until(lambda: Job.objects.count() > 5, "the burst")
    queue = stack.data / "broker" / "queue"
    for number in range(3):
        chaos.repeat_messages()
        (queue / f"{number}_torn.cpu.msg").write_text('{"body": "W1')
        chaos.wait(0.1, 0.5)
        chaos.lose_messages()
    chaos.lose_folder()
    chaos.wait(0.5, 1.0)
    for sender in senders:
        assert sender.wait(60) == 0, "submitting must not depend on the broker"
    chaos.finish(120)
    assert Counter(Job.objects.values_list("state", "attempt")) == {("succeeded", 1): 31}
    assert [worker.poll() for worker in workers] == [None, None], "a damaged message must not end a worker"
    check_promises(stack)


@pytest.mark.parametrize("seed", seeds(1108))
def test_a_database_that_crashes_at_random_moments(services: Stack, seed: int) -> None:
    # The reaper's patience is 1.2 beats: on a busy machine half a second is too short for anybody to be fair.
    chaos = Chaos(services, seed, more={"JOB_GRACE": "60", "JOB_BEAT": "2"})
    services.beat()
    submitted = chaos.submit(4, steps=150, pause=0.05)
    stepping(submitted[0], 1)
    for least, most in ((0.0, 0.5), (LEASE, 1.5 * LEASE), (0.0, 0.5)):
        chaos.wait(0.0, 1.5)
        chaos.restart_database(least, most)
    chaos.finish()
    for job in submitted:
        job.refresh_from_db()
        assert (job.state, job.attempt, job.losses) == ("succeeded", 1, 0)
    check_promises(services)


@pytest.mark.parametrize("seed", seeds(1109))
def test_engines_of_a_warm_parent_survive_the_same(stack: Stack, seed: int) -> None:
    """The parent dies with its worker, and its engines are taken over like all others."""
    chaos = Chaos(stack, seed, size=1, more={"queues": "gpu", "MAX_TRAINING_JOBS": "3"})
    until(lambda: _is_forked(chaos), "a warm parent", 90)
    submitted = chaos.submit(4, recipe="tally", steps=100, pause=0.04)
    stepping(submitted[0], 5)
    for fault in chaos.random.sample([chaos.kill_engine, chaos.kill_worker, chaos.kill_both], 3):
        fault()
        until(lambda: len(_warm_parents(stack)) <= len(stack.living()), "the end of a dead worker's parent", 10)
        chaos.keep_workers()
        chaos.wait(0.5, 1.5)
    chaos.finish()
    for job in submitted:
        job.refresh_from_db()
        assert job.state == "succeeded", job.failure_message
        check_little_was_lost(job)
    check_promises(stack)


def _is_forked(chaos: Chaos) -> bool:
    """Run one job: did its engine come from a warm parent, and not from nothing?"""
    [job] = chaos.submit(recipe="tally", steps=20, pause=0.03)
    forked = False
    with suppress(psutil.Error):  # a slow machine looks too late
        forked = psutil.Process(stepping(job).pid).parent() in _warm_parents(chaos.stack)
    ended(job)
    return forked


def _warm_parents(stack: Stack) -> "list[psutil.Process]":
    found = []
    for process in processes_below(stack.data):
        with suppress(psutil.Error):
            if "project.runner.warm" in process.cmdline():
                found.append(process)
    return found


def test_a_database_that_is_away_for_longer_than_anybody_waits(services: Stack) -> None:
    """The only worker gives its job up, and goes on with it when the database is back."""
    worker = services.worker()
    services.beat()
    job = services.launch(steps=100, pause=0.05, checkpoint_every=10)
    attempt = stepping(job, 15)
    server = Postgres(services.database_url)
    server.crash()
    until(lambda: is_over(attempt.pid), "the engine's end", 30)
    server.start()
    job = patiently(lambda: ended(job, 60))
    assert (job.state, worker.poll()) == ("succeeded", None)
    check_little_was_lost(job)
    check_promises(services)
