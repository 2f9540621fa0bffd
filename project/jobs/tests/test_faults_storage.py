"""Disks that are full, files that are damaged, stores that are slow, memory and time that run out."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from project.contracts.runs import RunSpec
from project.jobs.models import Checkpoint, Job, Metric
from project.jobs.tests.chaos import Chaos, seeds
from project.jobs.tests.promises import check_promises
from project.jobs.tests.stack import Stack, ended, stepping, until
from project.kernel.models import Artifact
from project.modeling import checkpoints

pytestmark = pytest.mark.full
MIB = 2**20


def test_every_failure_ends_in_its_class_and_touches_nobody_else(stack: Stack) -> None:
    stack.worker(MAX_CPU_JOBS="6")
    neighbours = [stack.launch(steps=100, pause=0.1), stack.launch(steps=20, pause=0.1)]
    crash = stack.launch("fragile", crash_at=0)
    later = stack.launch("fragile", crash_at=4, checkpoint_every=3, steps=6)
    dies = stack.launch("fragile", die_at=0)
    silent = stack.launch("fragile", full="events", checkpoint_every=2)
    wordless = stack.launch("fragile", full="log", checkpoint_every=2)
    healed = stack.launch("eats", batch_size=8, fits=2)
    shrunk = stack.launch("fragile", address_space=200 * MIB, batch_size=8, steps=3)
    greedy = stack.launch("eats", hold=400 * MIB, fits=99, batch_size=1, limits={"memory_limit": 300 * MIB})
    slimmed = stack.launch("eats", hold_per_row=60 * MIB, fits=99, limits={"memory_limit": 360 * MIB})
    slow = stack.launch(steps=10_000, pause=0.05, limits={"time_limit": 2})

    def found(job: Job) -> tuple[str, str, int]:
        job = ended(job, 120)
        return job.state, job.failure_class, job.attempt

    assert found(crash) == ("failed", "crash", 2)  # the same twice, with nothing saved in between
    assert found(later) == ("failed", "crash", 2)  # what the first try had saved did not help
    assert found(dies) == ("failed", "infrastructure", 4)
    assert found(silent) == ("failed", "storage_full", 1)
    assert found(wordless) == ("failed", "storage_full", 1)
    assert found(healed) == ("succeeded", "", 3)
    assert found(shrunk) == ("succeeded", "", 3)  # 512 and 256 MiB did not fit
    assert found(greedy) == ("failed", "host_memory", 1)
    assert found(slimmed) == ("succeeded", "", 2)
    assert found(slow) == ("failed", "time_limit", 1)
    assert [found(job) for job in neighbours] == [("succeeded", "", 1)] * 2
    shrunk.refresh_from_db()
    assert (shrunk.adjusted, shrunk.result["batch_size"]) == ({"batch_size": 2}, 2)
    for job in (silent, wordless):
        [saved] = Checkpoint.objects.filter(job=job)
        assert checkpoints.problems(saved.folder) == []
    check_promises(stack)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `folder`. Skips the test where nobody may make one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"NOT TESTED: a full disk, because no small file system can be made here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_full_when_a_checkpoint_or_a_result_is_written(stack: Stack) -> None:
    """Real ones: 8 MiB for runs, 4 MiB for results."""
    with small_disk(stack.data / "runs", 8 * MIB), small_disk(stack.data / "artifacts", 4 * MIB):
        worker = stack.worker(MIN_FREE_BYTES="0")
        saves = stack.launch("fragile", steps=6, pause=0.1, checkpoint_every=2, checkpoint_bytes=3 * MIB)
        saves = ended(saves)
        assert (saves.state, saves.failure_class, saves.attempt) == ("failed", "storage_full", 1)
        assert "No space left on device" in saves.failure_message
        assert [row.step for row in Checkpoint.objects.filter(job=saves)] == [4, 2]
        assert [checkpoints.problems(row.folder) for row in Checkpoint.objects.filter(job=saves)] == [[], []]
        for row in Checkpoint.objects.filter(job=saves):
            checkpoints.remove(row.folder)

        results = ended(stack.launch("fragile", steps=3, result_bytes=6 * MIB))
        assert (results.state, results.failure_class, results.attempt) == ("failed", "storage_full", 1)
        assert not Artifact.objects.exists()

        full = ended(stack.launch("fragile", steps=3, result_bytes=12 * MIB))
        assert (full.state, full.failure_class) == ("failed", "storage_full")
        assert ended(stack.launch(steps=3)).state == "succeeded"
        assert worker.poll() is None
        check_promises(stack)
        stack.stop()


@pytest.mark.parametrize("seed", seeds(1201))
def test_a_damaged_checkpoint_is_passed_over_after_a_crash(stack: Stack, seed: int) -> None:
    chaos = Chaos(stack, seed, size=1)
    params = {"steps": 60, "pause": 0.05, "checkpoint_every": 10, "checkpoint_bytes": 4096}
    cut, flipped = stack.launch("fragile", **params), stack.launch("fragile", **params)
    attempts = [stepping(job, 25 + chaos.random.randrange(20)) for job in (cut, flipped)]
    worker = chaos.workers[0]
    worker.kill()
    worker.wait()
    for attempt in attempts:
        os.killpg(attempt.pid or 0, signal.SIGKILL)
    before = {}
    for job in (cut, flipped):
        rows = sorted(path for path in (job.run_folder(1) / "checkpoints").glob("step-*") if checkpoints.read(path))
        before[job] = rows[-2]
        weights = rows[-1] / "weights.bin"
        raw = bytearray(weights.read_bytes())
        raw[chaos.random.randrange(len(raw))] ^= 1 << chaos.random.randrange(8)
        weights.write_bytes(raw if job is flipped else raw[: chaos.random.randrange(len(raw))])
    chaos.finish()
    for job in (cut, flipped):
        spec = RunSpec.model_validate_json((job.run_folder(2) / "spec.json").read_bytes())
        assert spec.resume_from == str(before[job])
        assert Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step == (
            int(before[job].name.removeprefix("step-")) + 1
        )
        [said] = [event.body["message"] for event in job.events.filter(type="log", attempt=2)]
        assert "can't be used" in said
        assert ended(job).state == "succeeded"
    check_promises(stack)


@pytest.mark.parametrize("store", ["local", "remote"])
def test_a_worker_that_dies_between_the_store_and_the_commit(stack: Stack, store: str) -> None:
    blocked, waiting = stack.data / "BLOCKED", stack.data / "WAITING"
    blocked.touch()
    slow = {"DJANGO_SETTINGS_MODULE": "project.jobs.tests.slow_settings", "STORE": store}
    first = stack.worker(**slow)
    job = stack.launch("count", steps=12, pause=0.02)
    until(waiting.exists, "the store's turn")
    first.kill()
    first.wait()
    job.refresh_from_db()
    assert (job.state, job.artifact) == ("running", None) and not Artifact.objects.exists()
    blocked.unlink()
    stack.worker(**slow)
    job = ended(job)
    # A store on the same disk has taken the files over: they are made again. From another one they are sent again.
    assert (job.state, job.attempt) == ("succeeded", 2 if store == "local" else 1)
    assert Artifact.objects.count() == 1
    check_promises(stack)
