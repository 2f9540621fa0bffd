"""What an engine says while it works: one JSON object per line in `events.jsonl`."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MOST_STEPS = 2**63  # what a database counts
LATEST = 253_402_300_800  # Unix seconds: the year 10000, which no calendar of ours has


class FailureClass(StrEnum):
    """Why a job failed. Each class has its own retry budget and its own sentence on the job page."""

    USER_ERROR = "user_error"
    DEVICE_MEMORY = "device_memory"
    HOST_MEMORY = "host_memory"
    INFRASTRUCTURE = "infrastructure"
    STORAGE_FULL = "storage_full"
    TIME_LIMIT = "time_limit"
    CRASH = "crash"


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    at: float = Field(ge=0, lt=LATEST, description="Unix time in seconds, from the engine's clock")


class Started(_Event):
    type: Literal["started"] = "started"
    pid: int
    device: str
    versions: dict[str, str] = {}


class Progress(_Event):
    """`step` of `total`, in the recipe's own `unit` (step, row, byte, ...). `total` 0 means not known yet."""

    type: Literal["progress"] = "progress"
    step: int = Field(ge=0, lt=MOST_STEPS)
    total: int = Field(ge=0, lt=MOST_STEPS)
    unit: str = "step"
    phase: str = ""
    epoch: float | None = None


class Metrics(_Event):
    """Numbers at one step: losses in nats, real tokens per second, memory in bytes, use in percent."""

    type: Literal["metrics"] = "metrics"
    step: int = Field(ge=0, lt=MOST_STEPS)
    values: dict[str, float]


class Log(_Event):
    type: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Sample(_Event):
    """An answer generated during the run, beside what was wanted."""

    type: Literal["sample"] = "sample"
    step: int = Field(ge=0, lt=MOST_STEPS)
    prompt: str
    answer: str
    reference: str = ""


class Checkpoint(_Event):
    """A verified, committed checkpoint; `path` is relative to the run's folder."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=0, lt=MOST_STEPS)
    path: str
    metrics: dict[str, float] = {}


class Resumed(_Event):
    """The run goes on after `step`. `differences` say in words what may change the last digits; none: it is exact."""

    type: Literal["resumed"] = "resumed"
    step: int = Field(ge=0, lt=MOST_STEPS)
    differences: tuple[str, ...] = ()


class Done(_Event):
    """The work is finished: `result` for the outcome handler, `artifact` the folder (relative to the run) to store."""

    type: Literal["done"] = "done"
    result: dict[str, Any] = {}
    artifact: str | None = None


class Stopped(_Event):
    """The engine obeyed a request to stop (cancel, pause, drain) and left nothing half-written."""

    type: Literal["stopped"] = "stopped"
    step: int = 0
    checkpoint: str | None = None


class Failed(_Event):
    """`message` says what happened, `hint` what to do, `field` which parameter to change if it is one."""

    type: Literal["failed"] = "failed"
    failure: FailureClass
    message: str
    hint: str = ""
    field: str = ""


Event = Annotated[
    Started | Progress | Metrics | Log | Sample | Checkpoint | Resumed | Done | Stopped | Failed,
    Field(discriminator="type"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
FINAL = (Done, Stopped, Failed)
