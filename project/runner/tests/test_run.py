"""The process that runs a recipe: real child processes, a recipe that counts and one that misbehaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from project.contracts.events import (
    EVENT,
    FINAL,
    Checkpoint,
    Done,
    Event,
    Failed,
    Log,
    Metrics,
    Progress,
    Started,
    Stopped,
)
from project.runner.process import visible_device

ENVIRONMENT = os.environ | {"TUNELOOP_EXTRA_RECIPES": "project.runner.tests.recipes"}


def start(folder: Path, recipe: str, program: str = "project.runner", **spec: Any) -> subprocess.Popen[bytes]:
    params = spec.pop("params", {})
    body = {"job": "j1", "attempt": 1, "recipe": recipe, "params": params, **spec}
    (folder / "spec.json").write_text(json.dumps(body))
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", program, str(folder)]
        return subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True)


def finish(folder: Path, recipe: str, **spec: Any) -> tuple[int, list[Event]]:
    code = start(folder, recipe, **spec).wait(timeout=60)
    return code, events(folder)


def events(folder: Path) -> list[Event]:
    return [EVENT.validate_json(line) for line in (folder / "events.jsonl").read_bytes().splitlines(keepends=False)]


def wait_for(folder: Path, kind: type, *, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        path = folder / "events.jsonl"
        if path.exists() and path.read_bytes().endswith(b"\n") and any(isinstance(e, kind) for e in events(folder)):
            return
        time.sleep(0.02)
    raise AssertionError(f"no {kind.__name__} in {seconds} s: {(folder / 'log.txt').read_text()}")


def final(found: list[Event]) -> Event:
    assert sum(isinstance(event, FINAL) for event in found) == 1, found
    assert isinstance(found[-1], FINAL)
    return found[-1]


@pytest.mark.parametrize("program", ["project.runner", "training.engine"])
def test_a_run_says_what_it_did_and_leaves_its_artifact(tmp_path: Path, program: str) -> None:
    code, found = finish(tmp_path, "count", program=program, params={"steps": 4, "checkpoint_every": 2})
    assert code == 0
    assert isinstance(found[0], Started) and found[0].device == "cpu" and "torch" in found[0].versions
    losses = [event.values["loss"] for event in found if isinstance(event, Metrics) and "loss" in event.values]
    assert losses == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [e.path for e in found if isinstance(e, Checkpoint)] == [
        "checkpoints/step-00000002",
        "checkpoints/step-00000004",
    ]
    done = final(found)
    assert isinstance(done, Done) and done.result == {"counted": 4} and done.artifact == "artifact"
    assert (tmp_path / "artifact" / "count.txt").read_text() == "4"


def test_progress_is_limited_but_the_last_one_always_arrives(tmp_path: Path) -> None:
    _, found = finish(tmp_path, "count", params={"steps": 2000})
    steps = [event.step for event in found if isinstance(event, Progress)]
    assert len(steps) < 50 and steps[0] == 1 and steps[-1] == 2000 and steps == sorted(set(steps))


def test_a_stop_request_ends_the_run_cleanly_and_names_the_checkpoint(tmp_path: Path) -> None:
    child = start(tmp_path, "count", params={"steps": 100_000, "pause": 0.01, "checkpoint_every": 5})
    wait_for(tmp_path, Checkpoint)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 0
    stopped = final(events(tmp_path))
    assert isinstance(stopped, Stopped) and stopped.step >= 5
    assert stopped.checkpoint and (tmp_path / stopped.checkpoint / "state.json").exists()


def test_a_run_continues_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "state.json").write_text('{"step": 3}')
    _, found = finish(tmp_path, "count", params={"steps": 5}, resume_from=str(tmp_path / "old"))
    assert [e.step for e in found if isinstance(e, Metrics) and "loss" in e.values] == [4, 5]


def test_it_stops_by_itself_when_the_supervisor_falls_silent(tmp_path: Path) -> None:
    (tmp_path / "heartbeat").touch()
    child = start(tmp_path, "count", params={"steps": 100_000, "pause": 0.01}, silence_limit=1.0)
    wait_for(tmp_path, Progress)
    until = time.monotonic() + 2
    while time.monotonic() < until:  # as long as the file is touched, it works on
        (tmp_path / "heartbeat").touch()
        time.sleep(0.1)
    assert child.poll() is None
    assert child.wait(timeout=10) == 0
    found = events(tmp_path)
    assert isinstance(final(found), Stopped)
    assert any("no heartbeat" in event.message for event in found if isinstance(event, Log))


@pytest.mark.parametrize(
    ("how", "failure", "words"),
    [
        ("user error", "user_error", "The data set is empty."),
        ("crash", "crash", "ZeroDivisionError: division by zero"),
        ("host memory", "host_memory", "out of memory"),
        ("disk full", "storage_full", "disk is full"),
        ("exit", "crash", "SystemExit: 3"),
        ("no result", "crash", "without a result"),
    ],
)
def test_every_failure_has_its_class_and_one_sentence(tmp_path: Path, how: str, failure: str, words: str) -> None:
    code, found = finish(tmp_path, "misbehave", params={"how": how})
    failed = final(found)
    assert code == 1 and isinstance(failed, Failed)
    assert failed.failure == failure and words in failed.message and "\n" not in failed.message
    log = (tmp_path / "log.txt").read_text()
    assert ("Traceback" in log) == (how not in ("user error", "no result"))
    if how == "user error":
        assert (failed.hint, failed.field) == ("Import some rows.", "data.dataset")


@pytest.mark.full
def test_the_cpu_allocator_counts_as_device_memory(tmp_path: Path) -> None:
    _, found = finish(tmp_path, "misbehave", params={"how": "device memory"})
    failed = final(found)
    assert isinstance(failed, Failed) and failed.failure == "device_memory" and "batch_size" in failed.hint


@pytest.mark.parametrize(
    ("recipe", "params", "field", "words"),
    [
        ("count", {"steps": -1}, "steps", "greater than or equal to 1"),
        ("count", {"stpes": 1}, "stpes", "Extra inputs"),
        ("cuont", {}, "recipe", "Did you mean 'count'?"),
    ],
)
def test_a_wrong_recipe_or_parameter_is_the_users_error(
    tmp_path: Path, recipe: str, params: dict[str, Any], field: str, words: str
) -> None:
    code, found = finish(tmp_path, recipe, params=params)
    failed = final(found)
    assert code == 1 and isinstance(failed, Failed)
    assert failed.failure == "user_error" and failed.field == field and words in failed.message


def test_numbers_that_json_cannot_hold_are_left_out_and_said_once(tmp_path: Path) -> None:
    _, found = finish(tmp_path, "misbehave", params={"how": "not finite"})
    assert [e.values for e in found if isinstance(e, Metrics) and "lr" in e.values] == [{"lr": 0.5}]
    assert [e.message for e in found if isinstance(e, Log)] == ["loss is nan at step 1; such values are not recorded"]


@pytest.mark.full
def test_a_forgotten_thread_does_not_keep_the_process(tmp_path: Path) -> None:
    began = time.monotonic()
    code, found = finish(tmp_path, "misbehave", params={"how": "thread"})
    assert code == 0 and isinstance(final(found), Done) and time.monotonic() - began < 30


@pytest.mark.parametrize("content", [None, "{", '{"job": "j1", "attempt": 0, "recipe": "count", "params": {}}'])
def test_an_unusable_spec_is_exit_code_2(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "spec.json").write_text(content)
    command = [sys.executable, "-m", "project.runner", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert answer.returncode == 2 and "spec.json cannot be used" in answer.stderr
    assert not (tmp_path / "events.jsonl").exists()


def test_half_a_line_of_an_earlier_run_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"type": "progress", "st')
    start(tmp_path, "count", params={"steps": 1}).wait(timeout=30)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert isinstance(EVENT.validate_json(lines[1]), Started) and isinstance(EVENT.validate_json(lines[-1]), Done)


def test_system_use_is_sampled(tmp_path: Path) -> None:
    _, found = finish(tmp_path, "count", params={"steps": 10, "pause": 0.1})
    samples = [e.values for e in found if isinstance(e, Metrics) and "system/rss_bytes" in e.values]
    assert samples and all(v["system/rss_bytes"] > 1e6 and 0 <= v["system/cpu_percent"] <= 100 for v in samples)


def test_one_gpu_is_visible_and_none_to_a_cpu_run() -> None:
    assert visible_device("cpu", "0,1") == ""
    assert visible_device("cuda:1", None) == "1"
    assert visible_device("cuda:1", "4, 7") == "7"
    assert visible_device("cuda:0", "GPU-abc") == "GPU-abc"
