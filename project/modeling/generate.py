"""Answers from a model: in batches, or piece by piece. Greedy unless a temperature asks for chance."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from project.contracts.runs import UserError
from project.modeling import prompts as learned

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Model: TypeAlias = PreTrainedModel | PeftModel

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. `ids` are the tokens generated, the end token included, `logprobs` (nats) theirs, if asked for."""

    ids: list[int]
    text: str
    finish_reason: FinishReason
    logprobs: list[float] | None = None


def generate_batch(
    model: "Model",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
    logprobs: bool = False,
    each: Callable[[list[int]], bool] | None = None,
) -> list[Generation]:
    """One answer per prompt, in order. Prompts of similar length in one batch waste least.

    Each answer ends at an end token, before a `stop` text, or after `max_new_tokens` or the end of the model's context
    (`length`). Temperature 0 is greedy. The same `seed` gives a prompt the same answer wherever it stands in whatever
    batch, up to rounding; no global random state is read or changed. `each` is given the newest token of every row
    after each step (rows that have ended go on with padding); if it returns true, all answers end there. Raises
    UserError for a prompt that fills the context.
    """
    import torch

    if not prompts:
        return []
    room = _room(model, prompts, max_new_tokens)
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    attended = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    ends = end_ids(model, tokenizer)
    chooser = _Chooser(len(prompts), temperature, top_p, seed, keep=logprobs)
    watch = _Watch(tokenizer, longest, stop, each)
    opening = learned.opening_of(model)
    if opening is not None:
        with torch.inference_mode():
            answers = _behind(opening, model, ids, attended, room, ends, chooser, watch)
        return [_finished(tokenizer, answer, ends, stop, chooser.kept(row)) for row, answer in enumerate(answers)]
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=attended,
            max_new_tokens=room,
            do_sample=False,  # the chooser has chosen
            num_beams=1,
            repetition_penalty=1.0,  # a model's own defaults must not bend an evaluation
            no_repeat_ngram_size=0,
            use_cache=True,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
            logits_processor=[chooser],
            stopping_criteria=[watch],
        )
    answers = out[:, longest:].tolist()
    return [_finished(tokenizer, answer, ends, stop, chooser.kept(row)) for row, answer in enumerate(answers)]


def stream(
    model: "Model",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int | None = None,
) -> Iterator[str | Generation]:
    """Yield one answer in pieces of text as it grows, and the whole `Generation` last. The pieces joined are its text.

    A piece never ends inside a character, and nothing is yielded that may turn out to begin a `stop` text. Closing the
    iterator ends the generation after the token at hand.
    """
    tokens: SimpleQueue[int | Generation | BaseException] = SimpleQueue()
    closed = threading.Event()

    def pass_on(newest: list[int]) -> bool:
        tokens.put(newest[0])
        return closed.is_set()

    def work() -> None:
        try:
            (answer,) = generate_batch(
                model, tokenizer, [prompt], max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
                stop=stop, seed=seed, each=pass_on,
            )  # fmt: skip
            tokens.put(answer)
        except BaseException as error:  # handed to the reader, who raises it
            tokens.put(error)

    thread = threading.Thread(target=work, name="generate", daemon=True)
    thread.start()
    pieces = TextPieces(tokenizer, stop)
    ends = end_ids(model, tokenizer)
    try:
        while not isinstance(item := tokens.get(), Generation):
            if isinstance(item, BaseException):
                raise item
            if item not in ends and (piece := pieces.add(item)):
                yield piece
        if rest := item.text[len(pieces.said) :]:
            yield rest
        yield item
    finally:
        closed.set()
        thread.join()


def end_ids(model: "Model", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The tokens that end an answer: those of the model's generation config and the tokenizer's."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return frozenset(end for end in found if end is not None)


def context_limit(model: "Model") -> int | None:
    """How many tokens, prompt and answer together, the model was made for. None if its config does not say.

    What an adapter puts before every row takes of it.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit - learned.virtual_tokens(model) if isinstance(limit, int) and limit > 0 else None


class TextPieces:
    """Turns tokens into pieces of text that are safe to send: whole characters, and no beginning of a `stop` text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._before = 0  # first token of the window that is decoded again: some tokens need their left neighbour
        self._read = 0  # first token whose text has not been taken
        self._text = ""
        self.said = ""

    def add(self, token: int) -> str:
        """The text that is safe to send after `token`; often the token's own, sometimes none."""
        self._ids.append(token)
        old = self._decode(self._ids[self._before : self._read])
        new = self._decode(self._ids[self._before :])
        if new.endswith("\ufffd") or len(new) <= len(old):  # in the middle of a character, or a token without text
            return ""
        self._text += new[len(old) :]
        self._before, self._read = self._read, len(self._ids)
        return self._release()

    def _release(self) -> str:
        cut = first_stop(self._text, self._stop)
        safe = self._text if cut is None else self._text[:cut]
        if cut is None:
            safe = safe[: len(safe) - max((_overlap(safe, stop) for stop in self._stop), default=0)]
        piece = safe[len(self.said) :]
        self.said += piece
        return piece

    def _decode(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids)


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the `stop` texts begins in `text`, or None."""
    return min((at for at in map(text.find, filter(None, stop)) if at >= 0), default=None)


def decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """The text of `ids` without special tokens, exactly as generated."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _room(model: "Model", prompts: Sequence[list[int]], wanted: int) -> int:
    limit = context_limit(model)
    longest = max(map(len, prompts))
    if not all(prompts):
        raise UserError("A prompt is empty.", field="messages")
    if limit is not None and longest >= limit:
        raise UserError(
            f"The prompt has {longest} tokens, and the model's context has room for {limit}, answer included.",
            hint=f"Shorten the prompt by at least {longest - limit + 1} tokens.",
            field="messages",
        )
    return wanted if limit is None else min(wanted, limit - longest)


def _behind(
    opening: learned.Opening,
    model: "Model",
    ids: "torch.Tensor",
    mask: "torch.Tensor",
    room: int,
    ends: frozenset[int],
    chooser: "_Chooser",
    watch: "_Watch",
) -> list[list[int]]:
    """The answers to `ids` [rows, positions] of a model that begins every row with learned positions."""
    import torch
    from transformers import DynamicCache

    base, cache, prompt = model.get_base_model(), DynamicCache(), ids.shape[1]
    logits, mask = learned.read(base, opening, ids, mask, cache)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    ending = torch.tensor(sorted(ends), device=ids.device)
    for _ in range(room):
        tokens = chooser(ids, logits).argmax(-1, keepdim=True)
        ids = torch.cat([ids, tokens], dim=1)
        done |= torch.isin(tokens[:, 0], ending) | watch(ids, None)
        if bool(done.all()):
            break
        positions = mask.sum(-1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        output = base(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits = output.logits[:, -1]
    answers: list[list[int]] = ids[:, prompt:].tolist()
    return answers


def _finished(
    tokenizer: "PreTrainedTokenizerBase",
    answer: list[int],
    ends: frozenset[int],
    stop: Sequence[str],
    logprobs: list[float] | None,
) -> Generation:
    end = next((i for i, token in enumerate(answer) if token in ends), None)
    ids = answer if end is None else answer[: end + 1]
    text = decode(tokenizer, ids if end is None else ids[:-1])
    cut = first_stop(text, stop)
    if cut is not None:
        ids = _until_stop(tokenizer, ids, stop)  # what follows in a batch is padding, which may look like an end token
    reason: FinishReason = "length" if end is None and cut is None else "stop"
    return Generation(ids, text[:cut], reason, None if logprobs is None else logprobs[: len(ids)])


def _until_stop(tokenizer: "PreTrainedTokenizerBase", ids: list[int], stop: Sequence[str]) -> list[int]:
    for count in range(1, len(ids) + 1):
        if first_stop(decode(tokenizer, ids[:count]), stop) is not None:
            return ids[:count]
    return ids


class _Watch:
    """A stopping criterion of transformers: a row ends once its text holds a stop text, all once `each` says so."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        prompt: int,
        stop: Sequence[str],
        each: Callable[[list[int]], bool] | None,
    ) -> None:
        self._tokenizer, self._prompt, self._each = tokenizer, prompt, each
        self._stop = tuple(filter(None, stop))
        # A stop text of n bytes spans at most n tokens; a few more for characters cut in half.
        self._window = max((len(text.encode()) for text in self._stop), default=0) + 4

    def __call__(self, ids: "torch.Tensor", scores: Any, **_: Any) -> "torch.Tensor":
        import torch

        done = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        if self._each is not None and self._each(ids[:, -1].tolist()):
            return ~done
        if self._stop:
            tails = ids[:, max(self._prompt, ids.shape[1] - self._window) :].tolist()
            over = [first_stop(decode(self._tokenizer, tail), self._stop) is not None for tail in tails]
            done |= torch.tensor(over, device=ids.device)
        return done


@dataclass
class _Chooser:
    """A logits processor of transformers that picks the token itself, so that each row has its own random numbers.

    Sampling is the Gumbel-max trick: argmax(logits / T + Gumbel noise) is distributed as softmax(logits / T). The noise
    is drawn on the CPU from the row's generator, so it depends on neither the batch nor the device.
    """

    rows: int
    temperature: float
    top_p: float
    seed: int | None
    keep: bool = False
    _generators: list[Any] = field(default_factory=list)
    _logprobs: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        if self.temperature > 0:
            self._generators = [torch.Generator() for _ in range(self.rows)]
            for generator in self._generators:
                generator.manual_seed(self.seed) if self.seed is not None else generator.seed()

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        chosen = self._sample(scores) if self.temperature > 0 else scores.argmax(-1)
        if self.keep:
            picked = torch.log_softmax(scores.float(), -1).gather(1, chosen[:, None])[:, 0]
            self._logprobs.append(picked.tolist())
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)

    def kept(self, row: int) -> list[float] | None:
        return [step[row] for step in self._logprobs] if self.keep else None

    def _sample(self, scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        logits = scores.float() / self.temperature
        if self.top_p < 1:
            ordered, order = logits.sort(-1, descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            logits = logits.masked_fill((before >= self.top_p).scatter(1, order, before >= self.top_p), float("-inf"))
        uniform = torch.stack([torch.rand(logits.shape[1], generator=g) for g in self._generators])
        gumbel = -torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))
        return (logits + gumbel.to(logits.device)).argmax(-1)
