"""The part of OpenAI's chat API that is spoken here: what a request may hold, and the shape of answers and errors.

https://platform.openai.com/docs/api-reference/chat - Unknown fields are ignored, as OpenAI clients expect; known fields
that would change the answer and are not supported are refused.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from project.contracts.chat import Message

MAX_STOPS = 4


class ApiError(Exception):
    """An error in OpenAI's shape. `headers` are added to the response."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers = headers or {}

    def body(self) -> bytes:
        return json.dumps({"error": self.as_dict()}, ensure_ascii=False).encode()

    def as_dict(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


def server_error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> ApiError:
    """A failure that is not the asker's fault."""
    return ApiError(status, message, code=code, kind="server_error", headers=headers)


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class TextPart(_Wire):
    type: Literal["text"]
    text: str


class ChatMessage(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]

    def plain(self) -> Message:
        """The message as the renderer takes it: parts joined, OpenAI's newer name for 'system' translated."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class StreamOptions(_Wire):
    include_usage: bool | None = None


class ResponseFormat(_Wire):
    type: str


class ChatRequest(_Wire):
    """A chat completion request. `null` means the default, as in OpenAI's API."""

    model: str = Field(min_length=1, max_length=300)
    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = None
    logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None

    @property
    def limit(self) -> int | None:
        """The longest answer asked for, in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def parse_chat(body: bytes) -> ChatRequest:
    """Read and check a request. Raises ApiError 400 that names the field."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not JSON.", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    _refuse_unsupported(request)
    return request


def _invalid(error: ValidationError) -> ApiError:
    problems = error.errors(include_url=False, include_context=False)
    problem = min(problems, key=lambda p: len(p["loc"]))  # of a union's many complaints the outermost
    location = [str(part) for part in problem["loc"]]
    if location[:1] == ["messages"] and "content" in location:
        index = location[1]
        return ApiError(
            400,
            f"messages.{index}.content must be a string or a list of text parts; only text is served.",
            param=f"messages.{index}.content",
            code="invalid_value",
        )
    name = ".".join(part for part in location if part not in ("str", "list[str]"))
    code = "missing_required_parameter" if problem["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{name}: {problem['msg']}", param=name, code=code)


def _refuse_unsupported(request: ChatRequest) -> None:
    if request.n not in (None, 1):
        raise ApiError(400, "n: only one answer per request (n = 1) is supported.", param="n", code="unsupported_value")
    if len(request.stops) > MAX_STOPS or "" in request.stops:
        raise ApiError(
            400, f"stop: at most {MAX_STOPS} sequences, none of them empty.", param="stop", code="invalid_value"
        )
    unsupported = {
        "tools": bool(request.tools),
        "functions": bool(request.functions),
        "logprobs": bool(request.logprobs),
        "logit_bias": bool(request.logit_bias),
        "response_format": request.response_format is not None and request.response_format.type != "text",
    }
    for name, used in unsupported.items():
        if used:
            raise ApiError(400, f"{name} is not supported by this server.", param=name, code="unsupported_parameter")


class Usage(BaseModel):
    """Tokens read and written; the end-of-turn token counts as written."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    completion_tokens: int

    def as_dict(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Answering(BaseModel):
    """What every chunk of one answer has in common."""

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    created: int

    def completion(self, text: str, reason: str, usage: Usage) -> bytes:
        """The whole answer as one document."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return _json(self._head("chat.completion") | {"choices": [choice], "usage": usage.as_dict()})

    def opening(self) -> bytes:
        return self._event({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        return self._event({"content": text})

    def ending(self, reason: str) -> bytes:
        return self._event({}, reason)

    def usage(self, usage: Usage) -> bytes:
        return sse(_json(self._head("chat.completion.chunk") | {"choices": [], "usage": usage.as_dict()}))

    def _event(self, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse(_json(self._head("chat.completion.chunk") | {"choices": [choice]}))

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


END_OF_STREAM = b"data: [DONE]\n\n"


def sse(data: bytes) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so it needs one line."""
    return b"data: " + data + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
