"""The decoding thread: it alone touches the model. Requests come in from the event loop and text goes back to it.

Continuous batching: between two steps new requests join and finished or abandoned ones leave. First come, first served;
requests of another lane (an adapter that can't share a batch) wait until the present batch is through.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch

from project.contracts.runs import UserError
from registry.serving.engine.batch import Batch
from registry.serving.engine.model import BASE, ServedModel, Voice
from registry.serving.engine.sampling import Sampler, Sampling
from registry.serving.engine.spec import EngineSpec
from registry.serving.engine.text import TextStream
from registry.serving.engine.wire import ApiError, Usage, server_error

PREFILL_TOKENS = 2048  # prompt tokens read in one go, so that running answers do not stall long
FAILURES_IN_A_ROW = 3  # then the device is taken for broken, and the process ends

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    text: str


@dataclass(frozen=True)
class Finished:
    reason: Literal["stop", "length"]
    usage: Usage


@dataclass(frozen=True)
class Broken:
    error: ApiError


Output = Piece | Finished | Broken


@dataclass(eq=False)
class Row:
    """One answer in the making. `send` is called from the decoding thread and must not block."""

    voice: Voice
    prompt: list[int]
    limit: int
    sampler: Sampler
    text: TextStream
    send: Callable[[Output], None]
    written: int = 0
    token: int = 0
    cancelled: bool = False
    done: bool = False

    @property
    def voice_name(self) -> str:
        return self.voice.name

    @property
    def places(self) -> int:
        """Positions of the cache it may come to need."""
        return self.voice.places_before + len(self.prompt) + self.limit

    def accept(self, token: int) -> None:
        """Take the next token: send what it makes sayable, and finish if it ends the answer."""
        self.token, self.written = token, self.written + 1
        if token in self.voice.ends:
            self._finish("stop")
            return
        piece = self.text.feed(token)
        if piece:
            self.send(Piece(piece))
        if self.text.stopped:
            self._finish("stop")
        elif self.written >= self.limit:
            self._finish("length")

    def _finish(self, reason: Literal["stop", "length"]) -> None:
        rest = self.text.finish()
        if rest:
            self.send(Piece(rest))
        self.end(Finished(reason, Usage(prompt_tokens=len(self.prompt), completion_tokens=self.written)))

    def end(self, last: Finished | Broken) -> None:
        self.done = True
        self.send(last)


@dataclass
class Counts:
    """What the engine did since it started."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    refused: int = 0


@dataclass
class _Command:
    call: Callable[[], object]
    future: "Future[object]" = field(default_factory=Future)


class Decoder:
    """Start it once; `submit` and the adapter calls may come from any thread."""

    def __init__(self, model: ServedModel, spec: EngineSpec, *, on_fatal: Callable[[], None]) -> None:
        self.counts = Counts()
        self._model, self._spec, self._on_fatal = model, spec, on_fatal
        self._batch: Batch[Row] = Batch(model)
        self._wake = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._commands: deque[_Command] = deque()
        self._retired: set[str] = set()
        self._failures = 0
        self._closed = False
        self._turned_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the present step; whoever still waits gets an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    # --- asked from the event loop

    def voice(self, name: str) -> Voice:
        """The voice a request names. Raises ApiError 404."""
        voice = self._model.voices.get(name)
        if voice is None or name in self._retired:
            raise ApiError(404, f"The model '{name}' is not loaded here.", code="model_not_found", param="model")
        return voice

    def submit(
        self,
        voice: Voice,
        prompt: list[int],
        *,
        limit: int | None,
        sampling: Sampling,
        stops: Sequence[str],
        send: Callable[[Output], None],
    ) -> Row:
        """Queue a request. Raises ApiError 400 if the prompt leaves no room for an answer, 429 if too many wait."""
        context = self._model.context - voice.places_before
        room = context - len(prompt)
        if room < 1:
            message = (
                f"This model's context is {context} tokens, and the messages have {len(prompt)}, "
                "which leaves no room for an answer. Shorten the messages."
            )
            raise ApiError(400, message, code="context_length_exceeded", param="messages")
        limit = min(limit or self._spec.default_max_tokens, room)
        row = Row(voice, prompt, limit, Sampler(sampling), TextStream(voice.tokenizer, stops), send)
        with self._wake:
            if self._closed:
                raise server_error(503, "The engine is stopping.", "stopping", {"retry-after": "1"})
            if len(self._waiting) >= self._spec.max_waiting and not self._has_free_place():
                self.counts.refused += 1
                message = f"{len(self._waiting)} requests are waiting already. Try again shortly."
                raise ApiError(
                    429, message, code="rate_limit_exceeded", kind="rate_limit_error", headers={"retry-after": "1"}
                )
            self.counts.requests += 1
            self.counts.prompt_tokens += len(prompt)
            self._waiting.append(row)
            self._wake.notify()
        return row

    def add_adapter(self, name: str, path: Path) -> "Future[object]":
        def add() -> None:
            if name in self._retired:
                raise UserError(f"The adapter '{name}' is still being removed.", field="name")
            self._model.add(name, path)

        return self._ask(add)

    def remove_adapter(self, name: str) -> None:
        """Take no more requests for it; it is unloaded when the last answer is through. Raises ApiError 404."""
        if name == BASE:
            raise ApiError(400, "The base model can't be removed.", code="invalid_value", param="name")
        self.voice(name)
        self._retired.add(name)
        self._ask(lambda: None)

    def adapters(self) -> list[str]:
        return sorted(name for name in list(self._model.voices) if name != BASE and name not in self._retired)

    @property
    def active(self) -> int:
        return len(self._batch.rows)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def seconds_in_step(self) -> float:
        """How long the present step takes already, 0 when there is nothing to do."""
        return time.monotonic() - self._turned_at if self.active or self.waiting else 0.0

    def _has_free_place(self) -> bool:
        return len(self._batch.rows) + len(self._waiting) < self._spec.max_batch

    def _ask(self, call: Callable[[], object]) -> "Future[object]":
        command = _Command(call)
        with self._wake:
            self._commands.append(command)
            self._wake.notify()
        return command.future

    # --- the decoding thread

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                self._turned_at = time.monotonic()
                self._obey()
                self._turn()
        self._fail(list(self._batch.rows), server_error(503, "The engine stopped.", "stopped"))
        self._fail(list(self._waiting), server_error(503, "The engine stopped.", "stopped"))

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._closed or self._commands or self._waiting or self._batch.rows):
                self._wake.wait()
            return not self._closed

    def _obey(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            try:
                command.future.set_result(command.call())
            except Exception as error:
                command.future.set_exception(error)
        used = {row.voice_name for row in (*self._batch.rows, *self._waiting)}
        for name in list(self._retired - used):
            self._model.remove(name)
            self._retired.discard(name)

    def _turn(self) -> None:
        """One step of everything: leave, decode, join. A failure costs the rows it concerns, not the engine."""
        self._leave()
        newcomers = self._admit()
        if self._batch.rows:
            try:
                self._take(self._batch.rows, self._batch.step([row.token for row in self._batch.rows]))
                self._failures = 0
            except Exception as error:
                self._fail(list(self._batch.rows), self._report(error))
                self._batch.clear()
        if newcomers:
            try:
                self._take(newcomers, self._batch.join(newcomers))
                self._failures = 0
            except Exception as error:
                self._fail(newcomers, self._report(error))
        self._leave()

    def _leave(self) -> None:
        kept = [index for index, row in enumerate(self._batch.rows) if not (row.done or row.cancelled)]
        self._batch.keep(kept)

    def _admit(self) -> list[Row]:
        """The next rows in order, as many as share the lane and fit."""
        admitted: list[Row] = []
        with self._wake:
            while self._waiting:
                row = self._waiting[0]
                if not row.cancelled:
                    if not self._fits(row, admitted):
                        break
                    admitted.append(row)
                self._waiting.popleft()
        return admitted

    def _fits(self, row: Row, admitted: list[Row]) -> bool:
        together = [*self._batch.rows, *admitted]
        if not together:
            return True
        rows = len(together) + 1
        longest_prompt = max(len(other.prompt) for other in [*admitted, row])
        return (
            rows <= self._spec.max_batch
            and row.voice.lane == together[0].voice.lane
            and rows * max(other.places for other in [*together, row]) <= self._spec.max_cache_tokens
            and (not admitted or (len(admitted) + 1) * longest_prompt <= PREFILL_TOKENS)
        )

    def _take(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Draw a token for each row. Greedy ones are found for all rows at once, the others on the CPU one by one."""
        self.counts.steps += 1
        best = logits.argmax(-1).tolist()
        drawn = None if all(row.sampler.is_plain_greedy for row in rows) else logits.float().cpu()
        for index, row in enumerate(rows):
            if not row.cancelled:
                token = best[index] if drawn is None or row.sampler.is_plain_greedy else row.sampler.draw(drawn[index])
                self.counts.completion_tokens += 1
                row.accept(token)

    def _report(self, error: Exception) -> ApiError:
        """Write the traceback to the log; what the askers are told. Too many in a row end the process."""
        traceback.print_exc()
        sys.stderr.flush()
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self._on_fatal()
        out_of_memory = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        message = "The device ran out of memory." if out_of_memory else "The engine failed on this request."
        return server_error(500, message, "engine_error")

    def _fail(self, rows: list[Row], error: ApiError) -> None:
        for row in rows:
            if not row.done:
                row.end(Broken(error))
