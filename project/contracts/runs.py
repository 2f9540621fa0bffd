"""What a supervisor gives an engine (`spec.json`), and what a recipe may do while it runs (`RunContext`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from project.contracts.chat import Endpoint
from project.contracts.events import FailureClass
from project.contracts.plugins import Plugins
from project.contracts.rows import RowKind


class RunSpec(BaseModel):
    """One attempt at one job. Holds no secret: it lies on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    attempt: int = Field(ge=1)
    recipe: str
    params: dict[str, Any]
    inputs: dict[str, str] = Field(default={}, description="name -> absolute path of a file or folder on this host")
    resume_from: str | None = Field(default=None, description="absolute path of a committed checkpoint")
    cache: str | None = Field(
        default=None, description="absolute path of a folder shared by runs, for what can be made again"
    )
    device: str = Field(default="cpu", description="cpu or cuda:N")
    threads: int = Field(default=0, ge=0, description="compute threads; 0 means the library's default")
    silence_limit: float = Field(
        default=0.0, description="seconds without a supervisor before the engine stops; 0 = never"
    )


class UserError(Exception):
    """The job can't succeed as it was asked for. `field` names the parameter to change, `hint` says how."""

    def __init__(self, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.hint, self.field = hint, field

    failure: ClassVar[FailureClass] = FailureClass.USER_ERROR


@dataclass(frozen=True)
class Remedy:
    """A way to avoid a failure: `label` says it on a button, `params` are the recipe's parameters with it."""

    key: str
    label: str
    params: BaseModel


class StopRequested(Exception):
    """Raised by `RunContext.check_stop()` once somebody asked the engine to stop."""


class RunContext(Protocol):
    """A recipe's only way to the outside world."""

    spec: RunSpec
    folder: Path

    @property
    def artifact(self) -> Path:
        """The folder whose content becomes the job's artifact. Exists."""

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints of this attempt. Exists."""

    @property
    def stop_requested(self) -> bool:
        """Cheap; ask once per step."""

    def check_stop(self) -> None:
        """Raise StopRequested if the engine should stop."""

    def input(self, name: str) -> Path:
        """The path of an input, or UserError if the job has none of that name."""

    def endpoint(self, name: str) -> Endpoint:
        """The model elsewhere that an input names, with its token; UserError if the job has none of that name."""

    def progress(
        self, step: int, total: int, *, unit: str = "step", phase: str = "", epoch: float | None = None
    ) -> None: ...
    def metrics(self, step: int, **values: float) -> None: ...
    def log(self, message: str, *, level: Literal["info", "warning", "error"] = "info") -> None: ...
    def sample(self, step: int, prompt: str, answer: str, reference: str = "") -> None: ...
    def checkpoint(self, step: int, path: Path, metrics: dict[str, float] | None = None) -> None: ...
    def resumed(self, step: int, differences: Sequence[str] = ()) -> None:
        """Say that the run goes on after `step`; `differences` may change the last digits of its numbers."""

    def done(self, *, artifact: bool = False, **result: Any) -> None:
        """Say that the work is finished. `artifact` true stores the artifact folder."""


class Recipe(Protocol):
    """A long operation: one module. Heavy libraries are imported inside `run`, so reading `Params` costs nothing.

    A recipe may also have
    - `charts = ((title, "key,key", "label,label"), …)`: what its page draws,
    - `preload = ("package.module", …)`: what `run` imports, for workers to import beforehand,
    - `network = True` and `secrets = ("HUGGINGFACE_TOKEN",)`: what its engine is given,
    - `resumable = True`: a run that goes on from its checkpoint is the same run, bit for bit,
    - `smaller(params) -> params | None`: the same work in less device memory, tried when that runs out,
    - `remedies(params, failure: FailureClass, field: str) -> list[Remedy]`: what a person may try after a failure,
    - `disk_bytes(params, {input: bytes}) -> int`: what it writes below its run folder at most.
    """

    name: str
    label: str
    eats: tuple[RowKind, ...]
    needs: Literal["device", "cpu"]
    Params: type[BaseModel]

    def run(self, params: Any, ctx: RunContext) -> None: ...


RECIPES: Plugins[Recipe] = Plugins(
    kind="recipe",
    group="tuneloop.recipes",
    packages=("datasets_app.recipes", "registry.recipes", "training.engine.recipes"),
    required=("label", "eats", "needs", "Params", "run"),
)
