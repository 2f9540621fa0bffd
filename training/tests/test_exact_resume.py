"""An interrupted run is the same run: every loss and every weight, bit for bit, for every recipe and method there is.

A recipe that sets `resumable = True` is found here by itself, and so is each method of its parameters' `method`. Runs
are processes of their own, as in production; they are forked from one that has the libraries imported already.
"""

import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from project.contracts.chat import Message
from project.contracts.events import EVENT, Event
from project.contracts.rows import (
    ChatRow,
    CompletionRow,
    PreferenceRow,
    PromptRow,
    Row,
    RowKind,
    TextRow,
    UnpairedRow,
)
from project.contracts.runs import RECIPES, Recipe, RunSpec
from project.modeling import checkpoints
from project.modeling.data import write_rows
from project.modeling.tiny import make_tiny_model
from project.runner.process import main
from training.engine.methods_registry import in_order

pytestmark = pytest.mark.full

STEPS, EVERY = 14, 2
SEED = 20261121  # of the moments in which runs are interrupted
PATIENCE = 120.0  # seconds for anything to happen
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}

# What a run is asked for, as far as the recipe has such a parameter.
WANTED = {
    "max_steps": STEPS,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-3,
    "max_seq_length": 64,
    "validation_split": 0.2,
    "evaluate_every": 3,
    "checkpoint_every": EVERY,
    "keep_checkpoints": 100,
    "save_best_model": True,
    "logging_steps": 1,
    "seed": 7,
}
SMALL = {"r": 4, "alpha": 8.0, "dropout": 0.1}  # of a method
EVERYWHERE = ("lora", "full", "prompt")  # tried with every recipe, the others with sft alone: what differs is the same
OTHERS = ("LoRA with PiSSA", "QLoRA, 4 bits", "Prefix tuning, projected")  # that are resumed in a way of their own


def said(role: str, text: str) -> Message:
    return Message.model_validate({"role": role, "content": text})


def row(kind: RowKind, number: int) -> Row:
    """The `number`th row of a kind; lengths differ."""
    question, answer = f"say {number}", f"{number} it is" * (1 + number % 3)
    asked = (said("user", question),)
    match kind:
        case RowKind.CHAT:
            return ChatRow(messages=(*asked, said("assistant", answer)))
        case RowKind.COMPLETION:
            return CompletionRow(prompt=question, completion=answer)
        case RowKind.PREFERENCE:
            rejected = (said("assistant", "no"),)
            return PreferenceRow(prompt=asked, chosen=(said("assistant", answer),), rejected=rejected)
        case RowKind.UNPAIRED:
            return UnpairedRow(prompt=asked, completion=(said("assistant", answer),), label=number % 2 == 0)
        case RowKind.PROMPT:
            return PromptRow(prompt=asked)
        case RowKind.TEXT:
            return TextRow(text=f"{question}: {answer}")


def methods_of(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """(name, the smallest parameters) of each method the recipe has; one empty set for a recipe without methods."""
    if "method" not in recipe.Params.model_fields:
        return [("", {})]
    found = []
    for method in in_order():
        small = {name: value for name, value in SMALL.items() if name in method.Settings.model_fields}
        for number, (label, values) in enumerate(method.variants.items()):
            rare = label in OTHERS or method.name not in EVERYWHERE
            if (number == 0 or label in OTHERS) and (recipe.name == "sft" or not rare):
                found.append((label, {"method": {"type": method.name, **small, **values}}))
    return found


def cases() -> Iterator[Any]:
    for recipe in RECIPES.all():
        if not getattr(recipe, "resumable", False):
            continue
        known = recipe.Params.model_fields
        for label, method in methods_of(recipe):
            for packing in (False, True) if "packing" in known else (None,):
                params = {name: value for name, value in WANTED.items() if name in known} | method
                params |= {} if packing is None else {"packing": packing}
                try:
                    recipe.Params.model_validate(params)
                except ValidationError:  # a method that can't learn from packs
                    continue
                name = f"{recipe.name} {label} {'packed' if packing else ''}"
                yield pytest.param(recipe, params, id=" ".join(name.split()))


class Runs:
    """Runs below one folder: prepared, started, watched."""

    def __init__(self, root: Path, base: Path, forks: ForkServerContext) -> None:
        self._root, self._base, self._forks = root, base, forks
        self._processes: list[BaseProcess] = []

    def prepare(self, recipe: Recipe, params: dict[str, Any], *, resume_from: Path | None = None) -> Path:
        data = self._root / "data"
        if not data.exists():
            write_rows([row(recipe.eats[0], number) for number in range(24)], data)
        attempt = 1 + len(list(self._root.glob("run-*")))
        folder = self._root / f"run-{attempt}"
        folder.mkdir()
        spec = RunSpec(
            job="job",
            attempt=attempt,
            recipe=recipe.name,
            params=params,
            inputs={"base": str(self._base), "data": str(data)},
            resume_from=str(resume_from) if resume_from else None,
            threads=1,
        )
        (folder / "spec.json").write_text(spec.model_dump_json())
        return folder

    def start(self, folder: Path) -> BaseProcess:
        process = self._forks.Process(target=run_there, args=(str(folder),))
        process.start()
        self._processes.append(process)
        return process

    def finish(self, folder: Path) -> Path:
        process = self.start(folder)
        process.join(PATIENCE)
        assert process.exitcode == 0, (folder / "log.txt").read_text()[-2000:]
        return folder

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(10)


def run_there(folder: str) -> None:
    """An engine: what `python -m project.runner FOLDER` does."""
    with (Path(folder) / "log.txt").open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        sys.exit(main([folder]))


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["training.engine.components.trainer", "project.modeling.loading"])
        first = context.Process(target=int)  # starts the server, with this environment
        first.start()
        first.join(PATIENCE)
        yield context


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that drops out attention in training, so that full fine-tuning draws random numbers too."""
    folder = make_tiny_model(tmp_path_factory.mktemp("base") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return folder


@pytest.fixture
def runs(tmp_path: Path, base: Path, forks: ForkServerContext) -> Iterator[Runs]:
    made = Runs(tmp_path, base, forks)
    yield made
    made.stop()


def events(folder: Path) -> list[Event]:
    """What a run has said so far; a last line that is half written is left out."""
    path = folder / "events.jsonl"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [EVENT.validate_json(line) for line in whole.splitlines()]


def curve(folder: Path, key: str) -> dict[int, float]:
    return {
        event.step: event.values[key] for event in events(folder) if event.type == "metrics" and key in event.values
    }


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def interrupt(runs: Runs, folder: Path, step: int, how: Callable[[BaseProcess], None]) -> int | None:
    """Start a run, interrupt it once it has said the loss of `step`; returns its exit code."""
    process = runs.start(folder)
    until(lambda: step in curve(folder, "loss"), f"step {step} of {folder.name}")
    how(process)
    process.join(PATIENCE)
    assert not any(event.type == "done" for event in events(folder)), "it was over before it was interrupted"
    return process.exitcode


def newest(*folders: Path) -> Path:
    found = checkpoints.newest([folder / "checkpoints" for folder in folders])
    assert found is not None
    return found


def step_of(checkpoint: Path) -> int:
    manifest = checkpoints.read(checkpoint)
    assert manifest is not None
    return manifest.step


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "artifact").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(("recipe", "params"), cases())
def test_an_interrupted_run_is_the_same_run(runs: Runs, recipe: Recipe, params: dict[str, Any]) -> None:
    """Killed at a random step after a checkpoint, then asked to stop at a later one, then finished."""
    draw = random.Random(f"{SEED} {recipe.name} {params}")
    killed_at = draw.randint(EVERY + 1, STEPS // 2)
    stopped_at = draw.randint(killed_at + 1, STEPS - 3)
    whole = runs.finish(runs.prepare(recipe, params))

    killed = runs.prepare(recipe, params)
    assert interrupt(runs, killed, killed_at, lambda process: process.kill()) == -9
    start = newest(killed)
    assert EVERY <= step_of(start) < STEPS

    stopped = runs.prepare(recipe, params, resume_from=start)
    assert interrupt(runs, stopped, stopped_at, lambda process: process.terminate()) == 0
    again = newest(killed, stopped)
    assert stopped_at <= step_of(again) < STEPS

    last = runs.finish(runs.prepare(recipe, params, resume_from=again))
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        expected = curve(whole, key)
        assert expected or key != "loss"
        parts = [curve(folder, key) for folder in (killed, stopped, last)]
        for part in parts:  # also what was computed twice is the same
            assert part == {step: expected[step] for step in part}
        assert {**parts[0], **parts[1], **parts[2]} == expected
    assert min(curve(last, "loss")) == step_of(again) + 1
    assert [(said.step, said.differences) for said in events(last) if said.type == "resumed"] == [(step_of(again), ())]
    one, two = weights(whole), weights(last)
    assert one.keys() == two.keys() and one
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_killed_evaluation_begins_again_and_finds_the_same(runs: Runs) -> None:
    recipe = RECIPES.get("evaluate")
    assert not getattr(recipe, "resumable", False)
    data = runs.prepare(RECIPES.get("sft"), {}).parent / "data"
    assert data.exists()
    params = {"metrics": ["exact_match", "f1", "perplexity"], "max_new_tokens": 8, "batch_size": 2}
    whole = runs.finish(runs.prepare(recipe, params))
    killed = runs.prepare(recipe, params)
    process = runs.start(killed)
    until(lambda: [event for event in events(killed) if event.type == "progress" and event.step > 0], "some answers")
    process.kill()
    process.join(PATIENCE)
    assert not any(event.type == "done" for event in events(killed))
    again = runs.finish(runs.prepare(recipe, params))
    found = [
        next(event for event in events(folder) if event.type == "done").result["scores"] for folder in (whole, again)
    ]
    assert found[0] == found[1]
    answers = [(folder / "artifact" / "answers.jsonl").read_bytes() for folder in (whole, again)]
    assert answers[0] == answers[1]
