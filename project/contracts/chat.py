"""Messages, and the way a recipe reaches a model that answers them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Role = Literal["system", "user", "assistant", "tool"]


class Message(BaseModel):
    """One turn. `weight` 0 keeps an assistant turn in the context and out of the loss (OpenAI fine-tuning format)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    weight: Literal[0, 1] | None = None


class Endpoint(BaseModel):
    """An OpenAI-compatible server a recipe may call. The token dies with the job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    model: str
    token: SecretStr = Field(repr=False)
