"""Real worker processes: what is promised when things are queued, cancelled, killed and repeated."""

import getpass
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs

import psutil
import pytest
from django.db import connections

from project.contracts.events import FailureClass
from project.jobs import reaper
from project.jobs.actions import jobs
from project.jobs.models import DeviceSlot, Job, JobAttempt, Metric, Worker
from project.jobs.retries import BUDGETS
from project.jobs.tests.promises import check_promises
from project.jobs.tests.stack import LEASE, ROOT, Stack, ended, engines_in, stepping, until
from project.kernel.access import Actor


def actor(job: Job) -> Actor:
    return Actor.system("test", job.workspace)


def test_a_worker_runs_what_is_queued_when_the_bell_rings(stack: Stack) -> None:
    stack.worker(JOB_BEAT="60", JOB_LEASE="120")  # too slow a beat to find it by itself
    until(Worker.objects.exists, "a worker")
    job = stack.launch(steps=3)
    stack.ring(job, times=5)
    job = ended(job, seconds=15)
    assert (job.state, job.attempt, job.attempts.count()) == ("succeeded", 1, 1)
    check_promises(stack)


@pytest.mark.full
def test_without_a_bell_a_job_starts_at_the_next_beat(stack: Stack) -> None:
    job = stack.launch(steps=1)
    stack.worker()
    assert ended(job).state == "succeeded"
    check_promises(stack)


@pytest.mark.full
def test_places_limit_how_many_run_and_one_long_job_holds_up_nobody(stack: Stack) -> None:
    stack.worker(MAX_CPU_JOBS="2")
    long = stack.launch(steps=1000, pause=0.05)
    stepping(long)
    short = [stack.launch(steps=2, pause=0.1) for _ in range(3)]
    for job in short:
        assert ended(job).state == "succeeded"
    begun = sorted(JobAttempt.objects.filter(job__in=short), key=lambda attempt: attempt.started_at)
    assert all(
        first.finished_at <= second.started_at for first, second in pairwise(begun)
    )  # one place was left for them
    jobs.cancel(long, by=actor(long))
    assert ended(long).state == "cancelled"
    check_promises(stack)


def test_cancelling_a_running_job_stops_its_engine(stack: Stack) -> None:
    stack.worker()
    job = stack.launch(steps=1000, pause=0.05)
    attempt = stepping(job, 3)
    jobs.cancel(job, by=actor(job))
    job = ended(job, seconds=10)
    assert job.state == "cancelled"
    assert not psutil.pid_exists(attempt.pid or 0)
    assert job.attempts.get().exit_code == 0  # it stopped by itself
    check_promises(stack)


@pytest.mark.full
def test_an_engine_that_does_not_listen_is_killed(stack: Stack) -> None:
    stack.worker()
    job = stack.launch("misbehave", how="deaf")
    until(job.events.filter(type="started").exists, "an engine")
    jobs.cancel(job, by=actor(job))
    job = ended(job, seconds=15)
    assert job.state == "cancelled"
    assert job.attempts.get().signal == signal.SIGKILL
    check_promises(stack)


def test_a_killed_engine_goes_on_from_its_checkpoint(stack: Stack) -> None:
    stack.worker()
    job = stack.launch(steps=60, pause=0.05, checkpoint_every=10)
    os.kill(stepping(job, 20).pid or 0, signal.SIGKILL)
    job = ended(job)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)
    lost, won = job.attempts.order_by("number")
    assert (lost.outcome, lost.signal, won.outcome) == ("lost", signal.SIGKILL, "succeeded")
    assert "SIGKILL" in lost.message
    assert Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step > 10
    check_promises(stack)


def test_the_engine_of_a_killed_worker_is_taken_over_by_the_next_one(stack: Stack) -> None:
    first = stack.worker(JOB_GRACE="60")
    job = stack.launch(steps=100, pause=0.05)
    attempt = stepping(job, 20)
    first.kill()
    first.wait()
    second = stack.worker(JOB_GRACE="60")
    until(lambda: JobAttempt.objects.get(job=job).owner != attempt.owner, "the second worker to take it over")
    assert psutil.Process(attempt.pid).create_time() == pytest.approx(attempt.process_created, abs=0.05)
    job = ended(job)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 1, 0)
    assert int(job.attempts.get().owner.split(" ")[2]) == second.pid
    steps = Metric.objects.filter(job=job, key="loss").order_by("step").values_list("step", flat=True)
    assert list(steps) == list(range(1, 101))
    check_promises(stack)


def test_work_that_ended_while_nobody_watched_counts(stack: Stack) -> None:
    first = stack.worker(JOB_GRACE="60")
    job = stack.launch(steps=40, pause=0.05)
    attempt = stepping(job, 5)
    first.kill()
    first.wait()
    until(lambda: _is_over(attempt.pid), "the engine's own end")
    stack.worker(JOB_GRACE="60")
    job = ended(job)
    assert (job.state, job.attempt, job.result) == ("succeeded", 1, {"counted": 40})
    check_promises(stack)


@pytest.mark.full
def test_a_worker_and_its_engine_that_die_together_cost_a_try(stack: Stack) -> None:
    first = stack.worker()
    job = stack.launch(steps=60, pause=0.05, checkpoint_every=10)
    attempt = stepping(job, 20)
    first.kill()
    first.wait()
    os.killpg(attempt.pid or 0, signal.SIGKILL)
    stack.worker()
    job = ended(job)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)
    assert Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step > 10
    check_promises(stack)


@pytest.mark.full
def test_a_silent_worker_is_given_up_by_two_sweeps_and_can_do_nothing_afterwards(stack: Stack) -> None:
    workers = {worker.pid: worker for worker in (stack.worker(), stack.worker())}
    until(lambda: Worker.objects.count() == 2, "two workers")
    job = stack.launch(steps=60, pause=0.1)
    attempt = stepping(job, 2)
    silent = workers[int(attempt.owner.split(" ")[2])]
    os.kill(silent.pid, signal.SIGSTOP)
    until(lambda: reaper.sweep() or Job.objects.exclude(suspected_at=None).exists(), "suspicion")
    assert Job.objects.get(pk=job.pk).attempt == 1  # the first sweep only noted it
    until(lambda: (reaper.sweep(), Job.objects.get(pk=job.pk).attempt == 2)[1], "a second try")
    stepping(job, 1, attempt=2)
    until(lambda: _is_over(attempt.pid), "the old engine's end", 10)
    os.kill(silent.pid, signal.SIGCONT)
    job = ended(job)
    assert (job.state, job.attempt) == ("succeeded", 2)
    lost, won = job.attempts.order_by("number")
    assert (lost.outcome, won.outcome) == ("lost", "succeeded")
    assert lost.owner != won.owner
    silent.terminate()
    silent.wait(15)
    check_promises(stack)


def _is_over(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


@pytest.mark.full
def test_a_stopped_worker_gives_its_job_back(stack: Stack) -> None:
    first = stack.worker()
    job = stack.launch(steps=60, pause=0.05, checkpoint_every=5)
    stepping(job, 10)
    first.terminate()
    assert first.wait(15) == 0
    job.refresh_from_db()
    assert (job.state, job.losses, engines_in(stack.data)) == ("queued", 0, [])
    assert job.attempts.get().outcome == "drained"
    assert not Worker.objects.exists()
    stack.worker()
    job = ended(job)
    assert (job.state, job.attempt) == ("succeeded", 2)
    check_promises(stack)


@pytest.mark.full
def test_a_job_that_is_lost_again_and_again_fails(stack: Stack) -> None:
    stack.worker()
    job = stack.launch(steps=10_000, pause=0.05)
    for attempt in range(1, BUDGETS[FailureClass.INFRASTRUCTURE] + 2):
        os.kill(stepping(job, 1, attempt).pid or 0, signal.SIGKILL)
    job = ended(job)
    assert (job.state, job.failure_class, job.attempt) == ("failed", "infrastructure", 4)
    assert "not tried again" in job.failure_message
    check_promises(stack)


@pytest.mark.full
def test_a_job_cancelled_while_nobody_works_is_not_run(stack: Stack) -> None:
    first = stack.worker()
    job = stack.launch(steps=1000, pause=0.05)
    stepping(job)
    first.kill()
    first.wait()
    jobs.cancel(job, by=actor(job))
    assert Job.objects.get(pk=job.pk).state == "running"  # its engine lives
    stack.worker()
    assert ended(job).state == "cancelled"
    check_promises(stack)


@pytest.mark.full
def test_the_same_on_postgresql_and_redis(services: Stack) -> None:
    stack = services
    first, second = stack.worker("cpu,gpu"), stack.worker("cpu,gpu")
    stack.beat()
    until(lambda: Worker.objects.count() == 2, "two workers")
    many = [stack.launch(steps=2) for _ in range(8)]
    for job in many:
        stack.ring(job, times=5)
    for job in many:
        done = ended(job, 60)
        assert (done.state, done.attempt, done.attempts.count()) == ("succeeded", 1, 1)
    long = stack.launch(steps=80, pause=0.1, checkpoint_every=10)
    attempt = stepping(long, 15)
    owner = int(attempt.owner.split(" ")[2])
    victim, other = (first, second) if first.pid == owner else (second, first)
    victim.kill()
    victim.wait()
    os.killpg(attempt.pid or 0, signal.SIGKILL)
    done = ended(long, 60)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert other.poll() is None
    check_promises(stack)


@pytest.mark.full
def test_beat_gives_up_a_dead_workers_job_elsewhere(stack: Stack) -> None:
    """A worker on another host can't look at processes: it waits for the lease."""
    first = stack.worker(TUNELOOP_HOST_NAME="far-away")
    job = stack.launch(steps=30, pause=0.1)
    attempt = stepping(job, 1)
    first.kill()
    first.wait()
    os.killpg(attempt.pid or 0, signal.SIGKILL)
    stack.worker()
    stack.beat()
    job = ended(job)
    assert (job.state, job.attempt, job.attempts.filter(host="far-away").count()) == ("succeeded", 2, 1)


@pytest.mark.full
def test_two_claimers_never_get_the_same_job(services: Stack) -> None:
    """Ten threads, two hosts, thirty jobs, eight places."""
    workspace_job = services.launch()
    launched = [workspace_job, *(services.launch() for _ in range(29))]
    url = services.database_url
    script = """
import django, sys, threading
django.setup()
from project.jobs import slots
from project.jobs.claim import claim
from django.db import connections
host = sys.argv[1]
slots.ensure(host, "cpu")
def work():
    for _ in range(8):
        claim("cpu", host=host, owner=f"{host} {threading.get_ident()}")
    connections.close_all()
threads = [threading.Thread(target=work) for _ in range(5)]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    environment = services.environment(MAX_CPU_JOBS="4", DJANGO_SETTINGS_MODULE="project.settings", DATABASE_URL=url)
    hosts = [subprocess.Popen([sys.executable, "-c", script, name], env=environment, cwd=ROOT) for name in "ab"]
    assert [host.wait(60) for host in hosts] == [0, 0]
    running = Job.objects.filter(state="running")
    assert running.count() == 8
    assert set(running.values_list("attempt", flat=True)) == {1}
    assert DeviceSlot.objects.exclude(job=None).values("job").distinct().count() == 8
    oldest = sorted(job.pk for job in launched)[:8]
    assert sorted(running.values_list("pk", flat=True)) == oldest
    for job in launched:
        jobs.cancel(Job.objects.get(pk=job.pk), by=actor(job))


@pytest.mark.full
def test_a_database_that_crashes_and_comes_back_costs_nothing(services: Stack) -> None:
    from pgserver._commands import pg_ctl  # type: ignore[attr-defined]

    folder = Path(parse_qs(services.database_url.partition("?")[2])["host"][0])
    user = folder.owner()

    def control(*command: str) -> None:
        pg_ctl([*command], pgdata=folder, user=None if user == getpass.getuser() else user, timeout=30)

    services.worker(JOB_GRACE="60")
    services.beat()
    job = services.launch(steps=80, pause=0.1)
    stepping(job, 10)
    control("-m", "immediate", "stop")
    time.sleep(LEASE)  # long enough for the lease to run out
    control("-w", "start", "-o", f"-k {folder} -h ''", "-l", str(folder / "log"))
    connections["default"].close()
    job = ended(job)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 1, 0)
    steps = Metric.objects.filter(job=job, key="loss").order_by("step").values_list("step", flat=True)
    assert list(steps) == list(range(1, 81))
    check_promises(services)
