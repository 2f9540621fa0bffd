"""Looking over the shoulder of an answer that passes through: what was said, without changing a byte."""

import json
from dataclasses import dataclass, field
from typing import Any

DONE = b"[DONE]"


@dataclass
class Heard:
    """What is known about an answer once it is over."""

    text: list[str] = field(default_factory=list)
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    def whole(self, body: bytes) -> None:
        """Listen to a completion that came in one piece."""
        try:
            answer = json.loads(body)
            choice = answer["choices"][0]
            self.text.append(choice["message"]["content"] or "")
            self.finish_reason = choice["finish_reason"] or ""
            self._usage(answer.get("usage"))
        except (ValueError, KeyError, IndexError, TypeError):
            self.error = "The engine's answer is not a chat completion."

    def chunk(self, data: bytes) -> dict[str, Any] | None:
        """Listen to one chunk of a stream; returns it."""
        try:
            chunk = json.loads(data)
        except ValueError:
            return None
        if not isinstance(chunk, dict):
            return None
        if "error" in chunk:
            self.error = str((chunk["error"] or {}).get("message", "unknown"))
        for choice in chunk.get("choices") or ():
            self.text.append((choice.get("delta") or {}).get("content") or "")
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self._usage(chunk.get("usage"))
        return chunk

    def _usage(self, usage: dict[str, Any] | None) -> None:
        if usage:
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.completion_tokens = int(usage.get("completion_tokens") or 0)


class Tap:
    """Feed what arrives, get what may go out: everything but the last event, which waits for the row to be written.

    The upstream is always asked for its usage; the chunk that carries it goes on only if the client asked as well.
    """

    def __init__(self, *, wants_usage: bool) -> None:
        self.heard = Heard()
        self.is_over = False
        self.has_text = False
        self._wants_usage = wants_usage
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        *events, self._rest = (self._rest + data).split(b"\n\n")
        return b"".join(self._pass(event) for event in events)

    def _pass(self, event: bytes) -> bytes:
        content = event.removeprefix(b"data:").strip()
        if content == DONE:
            self.is_over = True
            return b""
        chunk = self.heard.chunk(content) if event.startswith(b"data:") else None
        if chunk is not None:
            self.has_text = self.has_text or bool(self.heard.text and self.heard.text[-1])
            if chunk.get("usage") and not chunk.get("choices") and not self._wants_usage:
                return b""
        return event + b"\n\n"
