"""Messages, and the way a recipe reaches a model that answers them."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(BaseModel):
    """Which function, with which arguments: JSON in a text, as OpenAI has it, because a model may write it wrongly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: str


class ToolCall(BaseModel):
    """One call that an assistant's turn makes. `id` is what the tool's answer refers to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(BaseModel):
    """One turn. `weight` 0 keeps an assistant turn in the context and out of the loss (OpenAI fine-tuning format).

    An assistant's turn may have `tool_calls` (and then an empty content); a tool's turn answers the `tool_call_id`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    weight: Literal[0, 1] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = Field(default=None, min_length=1)
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it: arguments of calls as objects, absent fields absent."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            plain["name"] = self.name
        if self.tool_calls:
            plain["tool_calls"] = [_for_template(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            plain["tool_call_id"] = self.tool_call_id
        return plain


def _for_template(call: ToolCall) -> dict[str, Any]:
    """Arguments are an object: templates write `arguments | tojson` (huggingface.co/docs/transformers/chat_extras)."""
    try:
        arguments = json.loads(call.function.arguments)
    except ValueError:  # templates get what the model wrote
        arguments = call.function.arguments
    plain = {"type": call.type, "function": {"name": call.function.name, "arguments": arguments}}
    return plain if call.id is None else {"id": call.id, **plain}


class Endpoint(BaseModel):
    """An OpenAI-compatible server a recipe may call. The token dies with the job.

    `url` is what '/chat/completions' is put behind. `allowed` is the operator's list of addresses that may be called
    though they are not public.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    model: str
    token: SecretStr = Field(default=SecretStr(""), repr=False)
    allowed: tuple[str, ...] = ()
