"""Asking an OpenAI-compatible endpoint, with patience where that helps and plain words where it doesn't. Pure.

https://platform.openai.com/docs/api-reference/chat/create
"""

import email.utils
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from project.contracts.chat import Endpoint, Message
from project.contracts.runs import UserError
from project.modeling.http import AllowList, Answer, Outgoing, OutgoingError

TRIES = 8  # of one question
LONGEST_PAUSE = 60.0  # seconds between two of them
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_EXCERPT = 300  # characters of what a server says


@dataclass(frozen=True)
class Reply:
    """What a model wrote. `finish_reason` is 'stop', 'length' or whatever the server calls it."""

    text: str
    finish_reason: str
    tokens: int


class EndpointError(UserError):
    """The endpoint can't be used as it was given. `status` is the server's, 0 where it gave none."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint, field="endpoint")
        self.status = status


class Busy(EndpointError):
    """It may work later: too many requests, or the server's own trouble. `pause` in seconds, where it says so."""

    def __init__(self, message: str, *, status: int = 0, pause: float | None = None) -> None:
        super().__init__(message, hint="Try again later." if status else "", status=status)
        self.pause = pause


class Asking:
    """One endpoint; several threads may ask it. Close it, or use it in a `with`.

    `wait(seconds)` is called between two tries and may raise, to stop.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        seconds: float = 120.0,
        tries: int = TRIES,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint, self._seconds, self._tries, self._wait = endpoint, seconds, tries, wait
        try:
            allowed = AllowList.parse(endpoint.allowed)
        except ValueError as error:
            raise EndpointError(f"OUTGOING_ALLOW: {error}.") from None
        self._client = Outgoing(allowed)
        self._length_name = "max_tokens"

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """The ids that the server lists. Raises EndpointError."""
        answer = self._call("GET", "/models")
        self._require(answer)
        try:
            return [str(model["id"]) for model in answer.json()["data"]]
        except (OutgoingError, KeyError, TypeError):
            raise EndpointError("It lists its models in a way that is not OpenAI's.", status=answer.status) from None

    def ask(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int | None = None
    ) -> Reply:
        """One answer, after as many tries as it takes. Raises Busy when they are used up, EndpointError, and whatever
        `wait` raises."""
        for number in range(1, self._tries + 1):
            try:
                return self.ask_once(messages, max_tokens=max_tokens, temperature=temperature, seed=seed)
            except Busy as busy:
                if number == self._tries:
                    raise
                backoff = min(2.0 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
                self._wait(min(busy.pause, LONGEST_PAUSE) if busy.pause is not None else backoff)
        raise AssertionError("unreachable")

    def ask_once(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int | None = None
    ) -> Reply:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [message.for_template() for message in messages],
            "temperature": temperature,
            **({"seed": seed} if seed is not None else {}),
        }
        answer = self._call("POST", "/chat/completions", {**body, self._length_name: max_tokens})
        if answer.status == 400 and self._length_name == "max_tokens" and b"max_completion_tokens" in answer.body:
            self._length_name = "max_completion_tokens"  # newer models of OpenAI know no other
            answer = self._call("POST", "/chat/completions", {**body, self._length_name: max_tokens})
        self._require(answer)
        return self._reply(answer)

    def _call(self, method: str, path: str, body: Any = None) -> Answer:
        token = self._endpoint.token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return self._client.call(
                method, self._endpoint.url.rstrip("/") + path, headers=headers, json=body, seconds=self._seconds
            )
        except OutgoingError as error:
            if error.refused:
                raise EndpointError(str(error)) from None
            raise Busy(self._clean(str(error))) from None

    def _require(self, answer: Answer) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        said = self._said(answer)
        if status in (401, 403):
            raise EndpointError(
                f"The endpoint refuses the token ({status}){said}",
                hint="Give the endpoint a token that is valid for this model.",
                status=status,
            )
        if status == 404:
            raise EndpointError(
                f"The endpoint knows no model '{self._endpoint.model}', or its address is wrong (404){said}",
                hint="The address usually ends in /v1.",
                status=status,
            )
        if status in _BUSY:
            raise Busy(f"The endpoint is busy or in trouble ({status}){said}", status=status, pause=_pause(answer))
        raise EndpointError(f"The endpoint refuses the request ({status}){said}", status=status)

    def _said(self, answer: Answer) -> str:
        """': …', the server's own words where it has any, without the token."""
        try:
            error = answer.json()["error"]
            words = str(error["message"] if isinstance(error, dict) else error)
        except (OutgoingError, KeyError, TypeError):
            kind = answer.headers.get("content-type", "")
            words = answer.body[:2000].decode("utf-8", "replace") if kind.startswith("text/plain") else ""
        words = " ".join(self._clean(words).split())
        return f": {words[:_EXCERPT]}" if words else "."

    def _clean(self, text: str) -> str:
        """Without the token, and without what no database takes."""
        token, text = self._endpoint.token.get_secret_value(), text.replace("\x00", "")
        return text.replace(token, "…") if token else text

    def _reply(self, answer: Answer) -> Reply:
        try:
            data = answer.json()
            choice = data["choices"][0]
            usage = data.get("usage") or {}
            text = choice["message"].get("content") or ""
            reason, tokens = str(choice.get("finish_reason") or "stop"), int(usage.get("completion_tokens") or 0)
            return Reply(str(text).replace("\x00", ""), reason.replace("\x00", ""), tokens)
        except (OutgoingError, KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
            raise EndpointError(
                "Its answer is not OpenAI's.", hint="Is the address one of /v1?", status=answer.status
            ) from None


def _pause(answer: Answer) -> float | None:
    """Seconds that `Retry-After` asks for (RFC 9110, 10.2.3): a number or a date."""
    said = answer.headers.get("retry-after", "")
    try:
        seconds = float(said)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
