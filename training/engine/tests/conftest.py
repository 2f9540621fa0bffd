"""Tiny models, small data sets, and recipes run in this process through a real Context."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from project.contracts.chat import Message
from project.contracts.events import EVENT, Event
from project.contracts.rows import ChatRow, Row
from project.contracts.runs import RECIPES, RunSpec
from project.modeling.data import write_rows
from project.modeling.tiny import make_tiny_model
from project.runner.context import Context

WORDS = ("key", "card", "log", "port", "role", "mail", "path", "hash")


def chat(question: str, answer: str) -> ChatRow:
    return ChatRow(messages=(Message(role="user", content=question), Message(role="assistant", content=answer)))


def lessons(count: int = 24) -> list[Row]:
    """Questions that a tiny model can learn by heart."""
    return [chat(f"what is {WORDS[i % 8]} {i}?", f'{{"{WORDS[i % 8]}":{i % 3}}}') for i in range(count)]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(lessons(), tmp_path_factory.mktemp("data") / "data")


class Stopping(Context):
    """A context that is asked to stop once a phase has reached a step."""

    stop_at: tuple[str, int] | None = None

    def progress(self, step: int, total: int, **more: Any) -> None:
        super().progress(step, total, **more)
        if self.stop_at is not None and more.get("phase") == self.stop_at[0] and step >= self.stop_at[1]:
            self.request_stop()


@dataclass
class Ran:
    """What a run left behind, whether it ended well or not."""

    folder: Path
    context: Context

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def events(self) -> list[Event]:
        return [EVENT.validate_json(line) for line in (self.folder / "events.jsonl").read_bytes().splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        assert self.context.outcome is not None
        return self.context.outcome.result

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def curve(self, key: str) -> dict[int, float]:
        """Metric values by step. A step that appears twice fails."""
        points = [(event.step, event.values[key]) for event in self.of("metrics") if key in event.values]
        assert len(points) == len({step for step, _ in points})
        return dict(points)

    def logs(self) -> str:
        return "\n".join(event.message for event in self.of("log"))

    @property
    def checkpoint(self) -> Path:
        return self.folder / self.of("checkpoint")[-1].path


@pytest.fixture
def start(tmp_path: Path, base: Path, data: Path) -> Callable[..., Ran]:
    """Prepare a run: `start("sft", {...})` returns it, and `go(ran)` runs it."""

    def prepare(
        recipe: str = "sft",
        params: dict[str, Any] | None = None,
        *,
        stop_at: tuple[str, int] | None = None,
        resume_from: Path | None = None,
        **inputs: Path,
    ) -> Ran:
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        folder.mkdir()
        spec = RunSpec(
            job="job",
            attempt=1,
            recipe=recipe,
            params=params or {},
            inputs={name: str(path) for name, path in ({"base": base, "data": data} | inputs).items()},
            resume_from=None if resume_from is None else str(resume_from),
        )
        (folder / "spec.json").write_text(json.dumps(spec.model_dump()))
        context = Stopping(folder, spec)
        context.stop_at = stop_at
        return Ran(folder, context)

    return prepare


@pytest.fixture
def run(start: Callable[..., Ran]) -> Callable[..., Ran]:
    """Prepare a run and run it to its end. What the recipe raises comes out."""

    def prepared(*args: Any, **more: Any) -> Ran:
        return go(start(*args, **more))

    return prepared


def go(ran: Ran) -> Ran:
    recipe = RECIPES.get(ran.context.spec.recipe)
    try:
        recipe.run(recipe.Params.model_validate(ran.context.spec.params), ran.context)
    finally:
        ran.context.close()
    return ran
