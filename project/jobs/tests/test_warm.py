"""Engines forked from a warm parent: the same runs as cold ones, only sooner; and who outlives whom."""

import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from project.contracts.chat import Endpoint
from project.contracts.runs import RECIPES, RunSpec
from project.jobs.engine import Ended, Engine, created_at, kill_run
from project.jobs.models import JobAttempt
from project.jobs.tests.stack import Stack, ended, engines_in, stepping, until
from project.jobs.warming import WarmParent
from project.modeling.data import write_rows
from training.engine.tests.conftest import Ran, lessons

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmParent]:
    with pytest.MonkeyPatch.context() as patch:
        from django.conf import settings

        patch.setattr(settings, "RUNS_PATH", tmp_path_factory.mktemp("warm"))
        parent = WarmParent()
        parent.tend()
        until(parent.is_ready, "a warm parent")
        yield parent
        parent.stop()


def spec(recipe: str, params: dict[str, Any], **inputs: Path) -> RunSpec:
    known = {name: str(path) for name, path in inputs.items()}
    return RunSpec(job="job", attempt=1, recipe=recipe, params=params, inputs=known)


def start(folder: Path, wanted: RunSpec, warm: WarmParent | None) -> Engine:
    folder.mkdir()
    return Engine.start(folder, wanted, RECIPES.get(wanted.recipe), warm=warm)


def is_forked(engine: Engine, warm: WarmParent) -> bool:
    return psutil.Process(engine.pid).ppid() == warm.pid


def lasting(folder: Path, warm: WarmParent, **params: Any) -> Engine:
    """A forked engine at work."""
    engine = start(folder, spec("pretend", {"steps": 1000, "pause": 0.02, **params}), warm)
    assert is_forked(engine, warm)
    events = folder / "events.jsonl"
    until(lambda: events.exists() and '"train"' in events.read_text(), "a step")
    return engine


def test_a_warm_run_is_bit_for_bit_the_cold_run(warm: WarmParent, tiny_base: Path, tmp_path: Path) -> None:
    data = write_rows(lessons(), tmp_path / "data")
    params = {"max_steps": 4, "batch_size": 4, "method": {"type": "lora", "dropout": 0.1}}
    wanted = spec("sft", params, base=tiny_base, data=data)
    found = {}
    for name, parent in (("warm", warm), ("cold", None)):
        engine = start(tmp_path / name, wanted, parent)
        assert (parent is None) or is_forked(engine, warm)
        assert engine.wait(120) == Ended(0, None), (tmp_path / name / "log.txt").read_text()
        ran = Ran(tmp_path / name, None)  # type: ignore[arg-type]  # only its files
        losses = [(event.step, event.values["loss"]) for event in ran.of("metrics") if "loss" in event.values]
        found[name] = (losses, (ran.artifact / "adapter_model.safetensors").read_bytes())
    assert len(found["warm"][0]) == 4
    assert found["warm"] == found["cold"]


def test_a_forked_engine_leads_its_own_session_and_shows_its_run_folder(warm: WarmParent, tmp_path: Path) -> None:
    engine = lasting(tmp_path / "run", warm)
    process = psutil.Process(engine.pid)
    assert process.cmdline()[-3:] == ["-m", "project.runner", str(tmp_path / "run")]
    assert [each.pid for each in engines_in(tmp_path)] == [engine.pid]
    fields = Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()
    assert fields[2:4] == [str(engine.pid)] * 2  # process group and session
    assert process.cwd() == str(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "engine.json").read_text())["pid"] == engine.pid
    engine.kill()


def test_it_ends_as_a_cold_one_does(warm: WarmParent, tmp_path: Path) -> None:
    assert start(tmp_path / "good", spec("pretend", {"steps": 1}), warm).wait(60) == Ended(0, None)
    assert start(tmp_path / "bad", spec("pretend", {"fail_at": 1}), warm).wait(60) == Ended(1, None)
    killed = lasting(tmp_path / "killed", warm)
    killed.kill()
    assert killed.ended() == Ended(None, signal.SIGKILL)
    asked = lasting(tmp_path / "asked", warm)
    asked.ask_to_stop()
    assert asked.wait(60) == Ended(0, None)
    assert '"stopped"' in (tmp_path / "asked" / "events.jsonl").read_text()


def test_it_keeps_no_descriptor_of_others_and_nothing_but_its_log(warm: WarmParent, tmp_path: Path) -> None:
    first, second = lasting(tmp_path / "first", warm), lasting(tmp_path / "second", warm)
    links = _descriptors(second.pid)
    assert not [link for link in links if "socket:" in link or "/first/" in link]
    assert set(links) >= {str(tmp_path / "second" / "log.txt"), "/dev/null"}
    for engine in (first, second):
        engine.kill()


def test_what_needs_another_environment_starts_cold(warm: WarmParent, tmp_path: Path, settings: Any) -> None:
    wanted, recipe = spec("pretend", {}), RECIPES.get("pretend")
    assert warm.fork(tmp_path, spec("count", {}), RECIPES.get("count")) is None  # computes nothing
    online = SimpleNamespace(**{name: getattr(recipe, name) for name in ("name", "needs")}, network=True)
    assert warm.fork(tmp_path, wanted, online) is None  # type: ignore[arg-type]
    assert warm.fork(tmp_path, wanted.model_copy(update={"threads": 7}), recipe) is None
    settings.HUGGINGFACE_TOKEN = "hf_secret"
    secret = SimpleNamespace(**{name: getattr(recipe, name) for name in ("name", "needs")})
    secret.secrets = ("HUGGINGFACE_TOKEN",)
    assert warm.fork(tmp_path, wanted, secret) is None  # type: ignore[arg-type]
    assert warm.fork(tmp_path, wanted, None) is None


def test_what_gets_a_token_starts_cold(warm: WarmParent, tmp_path: Path) -> None:
    """Only a process started from nothing inherits the pipe that the token comes through."""
    folder = tmp_path / "run"
    folder.mkdir()
    called = {"writer": Endpoint(url="https://api.example.com/v1", model="m", token=SecretStr("t"))}
    wanted, recipe = spec("pretend", {"steps": 1}), RECIPES.get("pretend")
    engine = Engine.start(folder, wanted, recipe, warm=warm, endpoints=called)
    assert not is_forked(engine, warm)
    assert engine.wait(60) == Ended(0, None)


def test_without_the_word_it_leaves_and_its_run_is_untouched(warm: WarmParent, tmp_path: Path) -> None:
    forked = warm.fork(tmp_path, spec("pretend", {}), RECIPES.get("pretend"))
    assert forked is not None
    assert created_at(forked.pid) is not None
    forked.forget()
    until(lambda: created_at(forked.pid) is None, "its end")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_outlives_the_parent_and_another_parent_follows(tmp_path: Path, settings: Any) -> None:
    settings.RUNS_PATH = tmp_path
    parent = WarmParent()
    parent.tend()
    until(parent.is_ready, "a warm parent")
    engine, other = lasting(tmp_path / "run", parent), lasting(tmp_path / "other", parent)
    assert parent.pid is not None
    psutil.Process(parent.pid).kill()
    assert engine.wait(0.2) is None
    cold = start(tmp_path / "cold", spec("pretend", {"steps": 1}), parent)  # at once, not when there is a new one
    engine.kill()
    assert engine.ended() == Ended(None, None)
    assert kill_run(tmp_path / "other", None, None)
    assert other.wait(60) == Ended(None, None)
    assert cold.wait(60) == Ended(0, None)
    until(lambda: parent.tend() or parent.is_ready(), "a new parent")
    parent.stop()


def test_a_dead_workers_parent_goes_and_its_engine_is_taken_over(stack: Stack) -> None:
    first = stack.worker("gpu", WARM_ENGINES="1", JOB_GRACE="60")  # the engine waits for the next worker
    parent = until(lambda: psutil.Process(first.pid).children(), "a warm parent")[0]
    job = until(lambda: _warm_job(stack, parent), "a job that started warm", seconds=120)
    attempt = JobAttempt.objects.get(job=job)
    first.kill()
    first.wait()
    until(lambda: not parent.is_running() or parent.status() == psutil.STATUS_ZOMBIE, "the end of the parent")
    assert psutil.pid_exists(attempt.pid or 0)
    stack.worker("gpu", WARM_ENGINES="0")
    job = ended(job)
    print(
        list(job.attempts.values()),
        (stack.data / "runs" / str(job.pk) / "1" / "log.txt").read_text(),
        (stack.data / "runs" / str(job.pk) / "1" / "events.jsonl").read_text()[-900:],
    )
    assert (job.state, job.attempt, job.attempts.count()) == ("succeeded", 1, 1)
    assert engines_in(stack.data) == []


def _warm_job(stack: Stack, parent: psutil.Process) -> Any:
    """A running job whose engine `parent` forked; None while that still imports."""
    if not any("eventpoll" in link for link in _descriptors(parent.pid)):  # it serves
        return None
    job = stack.launch("pretend", steps=100, pause=0.1)
    assert psutil.Process(stepping(job).pid).ppid() == parent.pid
    return job


def _descriptors(pid: int) -> list[str]:
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            links.append(str(path.readlink()))
    return links
