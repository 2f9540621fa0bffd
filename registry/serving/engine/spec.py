"""What the supervisor gives a serving engine: one file, readable by its owner only, because it holds the secret."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class EngineSpec(BaseModel):
    """One engine: one base model on one device. Lengths are in tokens, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Path = Field(description="folder of the base model, or of a fully tuned one")
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="auto: fastest on the device")
    threads: int = Field(default=0, ge=0, description="compute threads; 0 means the library's default")
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="0 means any free one")
    secret: SecretStr = Field(min_length=16, description="every request carries it as its bearer token")
    parent: int = Field(default=0, ge=0, description="process that must stay alive; 0 means nobody is watched")
    context_limit: int = Field(
        default=0, ge=0, description="longest prompt and answer together; 0 means the model's own"
    )
    default_max_tokens: int = Field(default=1024, ge=1, description="longest answer when the request names no limit")
    max_batch: int = Field(default=16, ge=1, description="requests decoded together")
    max_waiting: int = Field(default=64, ge=0, description="requests that may wait; more are refused with 429")
    max_cache_tokens: int = Field(default=65_536, ge=1, description="places in the key-value cache of one batch")
    drain: float = Field(default=20.0, ge=0, description="how long answers may go on after SIGTERM")


class Ready(BaseModel):
    """`ready.json` beside the spec: the engine listens and its model is loaded."""

    model_config = ConfigDict(frozen=True)

    url: str
    pid: int
    context: int
    dtype: str
