"""Letting a model write: many questions to an endpoint at a time, or batches to a model in this process. Pure.

Every answer is appended to `checkpoints/answers.jsonl` as it comes, and is never asked for twice: a run that was killed
goes on with what it has. Answers are passed on in the order of the questions, so the result does not depend on which
came first.
"""

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datasets_app.importing import Entry
from project.contracts.chat import Endpoint, Message
from project.contracts.runs import RunContext, StopRequested, UserError
from project.modeling import checkpoints
from project.modeling.asking import Asking, EndpointError

if TYPE_CHECKING:
    from project.modeling.generate import Model

FILE = "answers.jsonl"
COMMIT_EVERY = 30.0  # seconds between two checkpoints, which other hosts can go on from
REFUSED = "refused: "  # the finish reason of a question that the server would not take
_ITS_OWN_FAULT = (400, 413, 422)  # such an answer is about this question; others may do
_LOOK = 0.2  # seconds between two looks at the stop flag


@dataclass(frozen=True)
class Written:
    """What a model wrote. `tokens` is 0 where nobody counted."""

    text: str
    finish_reason: str = "stop"
    tokens: int = 0


@dataclass(frozen=True)
class Ask:
    """One question. `round` counts how often it was asked before; `then` makes the next one of its answer, or none."""

    number: int
    messages: tuple[Message, ...]
    round: int = 0
    about: Any = None
    then: Callable[[str], tuple[Message, ...]] | None = None


Item = Ask | Entry  # a row among the questions is passed on in its place
Keep = Callable[[Ask, Written], None]


class Writer(Protocol):
    """`write` answers all questions, and tells `keep` of each answer at once. `width`: how many are worth giving."""

    width: int

    def write(self, asks: Sequence[Ask], keep: Keep) -> None: ...


# --- what was written already


class Journal:
    """The answers of this run and of its earlier tries, by question. A question that changed is another one."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx, self._lock = ctx, threading.Lock()
        self._known: dict[str, Written] = {}
        for path in self._earlier():
            self._read(path)
        self._resumed = frozenset(self._known)
        self._path = ctx.checkpoints / FILE
        self._file = self._path.open("w", encoding="utf-8")
        for key, written in self._known.items():
            self._append(key, written)
        self._file.flush()
        self._committed, self._committed_at = len(self._known), time.monotonic()

    def __len__(self) -> int:
        return len(self._known)

    def _earlier(self) -> list[Path]:
        given = self._ctx.spec.resume_from
        tries = sorted(self._ctx.folder.parent.glob(f"*/checkpoints/{FILE}"))  # of this job, on this host
        return [*([Path(given) / FILE] if given else []), *tries]

    def _read(self, path: Path) -> None:
        with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found = json.loads(line)
                    key = found.pop("key")
                    self._known[key] = Written(**found)
                except (ValueError, TypeError, KeyError, AttributeError):  # half a line: the process was killed
                    continue

    @property
    def resumed(self) -> int:
        """How many answers earlier tries left."""
        return len(self._resumed)

    def is_from_before(self, ask: Ask) -> bool:
        """Was this answered by an earlier try, which has told of it?"""
        return _key(ask) in self._resumed

    def known(self, ask: Ask) -> Written | None:
        return self._known.get(_key(ask))

    def keep(self, ask: Ask, written: Written) -> None:
        """Remember an answer; may be called by any thread."""
        with self._lock:
            self._known[_key(ask)] = written
            self._append(_key(ask), written)
            self._file.flush()

    def _append(self, key: str, written: Written) -> None:
        self._file.write(json.dumps({"key": key, **asdict(written)}) + "\n")

    def commit(self, *, at_once: bool = False) -> None:
        """Make a checkpoint, unless there is nothing new or the last one is young."""
        due = at_once or time.monotonic() - self._committed_at >= COMMIT_EVERY
        if not due or len(self) == self._committed:
            return
        built = self._ctx.folder / "tmp" / "checkpoint"
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        with self._lock:
            shutil.copyfile(self._path, built / FILE)
            step = len(self)
        self._ctx.checkpoint(step, checkpoints.commit(built, self._ctx.checkpoints, step=step))
        checkpoints.prune(self._ctx.checkpoints, keep=1)
        self._committed, self._committed_at = step, time.monotonic()


def _key(ask: Ask) -> str:
    said = json.dumps([[m.role, m.content] for m in ask.messages]).encode()
    return f"{ask.number}.{ask.round}.{hashlib.blake2b(said, digest_size=8).hexdigest()}"


def answered(
    items: Iterable[Item],
    writer: Writer,
    journal: Journal,
    ctx: RunContext,
    *,
    useful: Callable[[], int] = lambda: 2**31,
) -> Iterator[tuple[Item, Written | None]]:
    """The items in their order, questions with their answers. Raises UserError, StopRequested; what came is kept.

    `useful` says how many more questions can be of use, so that none is asked for nothing.
    """
    stream = iter(items)
    try:
        while wave := _wave(stream, min(writer.width, max(useful(), 1))):
            asks = [item for item in wave if isinstance(item, Ask)]
            found = _answers(asks, writer, journal)
            journal.commit()
            ctx.check_stop()
            for item in wave:
                yield item, found[item.number] if isinstance(item, Ask) else None
    except (StopRequested, UserError):
        journal.commit(at_once=True)
        raise


def _wave(stream: Iterator[Item], width: int) -> list[Item]:
    """The next items, with so many questions among them."""
    wave: list[Item] = []
    asked = 0
    for item in islice(stream, 2048):
        wave.append(item)
        asked += isinstance(item, Ask)
        if asked == width:
            break
    return wave


def _answers(asks: Sequence[Ask], writer: Writer, journal: Journal) -> dict[int, Written]:
    """The last answer to each question, by its number."""
    found: dict[int, Written] = {}
    while asks:
        missing = [ask for ask in asks if journal.known(ask) is None]
        if missing:
            writer.write(missing, journal.keep)
        following = []
        for ask in asks:
            written = journal.known(ask)
            assert written is not None  # noqa: S101  (the writer keeps one for each)
            found[ask.number] = written
            if ask.then is not None and written.text.strip() and (messages := ask.then(written.text)):
                following.append(Ask(ask.number, messages, ask.round, ask.about))
        asks = following
    return found


# --- who writes


@dataclass(frozen=True)
class Manner:
    """How to write: chance, length in tokens, and what chance starts from."""

    temperature: float
    max_tokens: int
    seed: int


class EndpointWriter:
    """Asks an endpoint, `concurrency` questions at a time."""

    def __init__(self, endpoint: Endpoint, manner: Manner, *, concurrency: int, ctx: RunContext) -> None:
        self._manner, self._concurrency, self._ctx = manner, concurrency, ctx
        self._asking = Asking(endpoint, wait=self._pause)
        self._refused = self._taken = 0
        self.width = 4 * concurrency

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._ctx.check_stop()
            time.sleep(min(left, _LOOK))

    def write(self, asks: Sequence[Ask], keep: Keep) -> None:
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="ask")
        try:
            running: set[Future[None]] = {pool.submit(self._one, ask, keep) for ask in asks}
            while running:
                done, running = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                self._ctx.check_stop()
        finally:  # after an error nothing new is asked; what is under way is not waited for
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, ask: Ask, keep: Keep) -> None:
        manner = self._manner
        try:
            reply = self._asking.ask(
                ask.messages,
                max_tokens=manner.max_tokens,
                temperature=manner.temperature,
                seed=manner.seed + ask.round,
            )
        except EndpointError as error:
            self._refused += 1
            if error.status not in _ITS_OWN_FAULT or (not self._taken and self._refused > self._concurrency):
                raise
            keep(ask, Written("", f"{REFUSED}{error}"))
        else:
            self._taken += 1
            keep(ask, Written(reply.text, reply.finish_reason, reply.tokens))


class LocalWriter:
    """A model in this process, from the inputs `base` and, where there is one, `adapter`."""

    def __init__(self, manner: Manner, *, batch_size: int, ctx: RunContext) -> None:
        from project.modeling.loading import fast_dtype, load_adapter, load_base, load_tokenizer

        self._manner, self.width, self._ctx = manner, batch_size, ctx
        base = ctx.input("base")
        self._tokenizer = load_tokenizer(base)
        self._model: Model = load_base(base, device=ctx.spec.device, dtype=fast_dtype(ctx.spec.device))
        if "adapter" in ctx.spec.inputs:
            self._model = load_adapter(self._model, ctx.input("adapter"), "adapter")

    def write(self, asks: Sequence[Ask], keep: Keep) -> None:
        from project.modeling.generate import generate_batch
        from project.modeling.render import prompt_ids

        for round_ in sorted({ask.round for ask in asks}):  # the same question needs another seed
            batch = [ask for ask in asks if ask.round == round_]
            answers = generate_batch(
                self._model,
                self._tokenizer,
                [prompt_ids(self._tokenizer, ask.messages) for ask in batch],
                max_new_tokens=self._manner.max_tokens,
                temperature=self._manner.temperature,
                seed=self._manner.seed + round_,
                each=lambda newest: self._ctx.stop_requested,
            )
            self._ctx.check_stop()
            for ask, answer in zip(batch, answers, strict=True):
                keep(ask, Written(answer.text, answer.finish_reason, len(answer.ids)))
