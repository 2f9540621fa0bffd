"""From a flattened batch to its loss, by the fastest road that gives this model's own numbers.

Three things are quicker than what a model does by itself: rows laid end to end instead of padded, attention within each
row, and an output layer applied to learned positions only. Whether an architecture stands each of them is not believed
but measured on two rows of the data before training: `Forward.choose` takes a road only if it gives the numbers of the
model's ordinary forward on each row alone. The last road, one row at a time, is right for every architecture.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from project.modeling.prompts import is_prefix, virtual_tokens
from training.engine.components import attention, prompts
from training.engine.components.loss import summed_nll, token_nll
from training.engine.components.rows import row_slices

PROBE = 32  # tokens of each row that the roads are compared on
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}  # mean difference of logits, in their standard deviations


@dataclass(frozen=True)
class Forward:
    """How to run a causal language model over a flattened batch (`rows.collate`)."""

    row_attention: bool = True
    flattened: bool = True
    own_head: bool = True
    autocast: torch.dtype | None = None
    native: str = "sdpa"  # the attention the model was loaded with

    @classmethod
    def choose(cls, model: Any, rows: Sequence[list[int]], *, autocast: torch.dtype | None = None) -> "Forward":
        """The fastest road that agrees with the model on `rows` (at least one). Sets the model's attention for it."""
        probes = [list(row[:PROBE]) for row in rows[:2]]
        native = base_of(model).config._attn_implementation
        roads = [
            cls(row_attention=ours, flattened=flattened, own_head=head, autocast=autocast, native=native)
            for ours, flattened in ((True, True), (False, True), (False, False))
            for head in (True, False)
            if ours or not flattened or not is_prefix(model)  # a cache stands before the first row only
        ]
        with torch.no_grad(), _evaluating(model):
            expected = [roads[-1]._plain_logits(model, probe) for probe in probes]
            for road in roads:
                if road._agrees(model, probes, expected):
                    return road
        roads[-1].prepare(model)
        return roads[-1]

    def prepare(self, model: Any) -> None:
        """Give the model the attention of this road."""
        base_of(model).set_attn_implementation(attention.NAME if self.row_attention else self.native)

    def summed_loss(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Sum of the negative log-likelihoods of the batch's learned tokens (nats, float32)."""
        if not self.flattened and len(batch["row_lengths"]) > 1:
            return torch.stack([self.summed_loss(model, row) for row in row_slices(batch)]).sum()
        return self._nll(model, batch, summed=True)

    def token_nll(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """The negative log-likelihood of each of the batch's learned tokens [n] (nats, float32)."""
        if not self.flattened and len(batch["row_lengths"]) > 1:
            return torch.cat([self.token_nll(model, row) for row in row_slices(batch)])
        return self._nll(model, batch, summed=False)

    def _nll(self, model: Any, batch: dict[str, Any], *, summed: bool) -> torch.Tensor:
        with self._autocast(model):
            inputs, predict = self._inputs(model, batch)
            if not self.own_head:
                logits = self._kept_logits(model, inputs, predict)
                return cross_entropy(logits.float(), batch["targets"], reduction="sum" if summed else "none")
            hidden, head = self._hidden(model, inputs, predict), base_of(model).get_output_embeddings()
        if self.autocast is not None:
            hidden = hidden.to(self.autocast)
        nll = summed_nll if summed else token_nll
        return nll(hidden, head.weight, getattr(head, "bias", None), batch["targets"])

    def describe(self) -> str:
        rows = "flattened rows" if self.flattened else "one row at a time"
        where = "within each row" if self.row_attention else "by the model's own mask"
        head = "learned positions only" if self.own_head else "the model's own output layer"
        return f"{rows}, attention {where}, {head}"

    def _hidden(self, model: Any, inputs: dict[str, Any], predict: torch.Tensor) -> torch.Tensor:
        return base_of(model).base_model(**inputs).last_hidden_state[0, predict]

    def _kept_logits(self, model: Any, inputs: dict[str, Any], predict: torch.Tensor) -> torch.Tensor:
        return base_of(model)(**inputs, logits_to_keep=predict).logits[0]

    def _plain_logits(self, model: Any, ids: list[int]) -> torch.Tensor:
        with self._autocast(model):
            whole = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
            return whole[-len(ids) :].float()  # a learned prompt has logits too

    def _inputs(self, model: Any, batch: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """What the model's forward is given, and the positions whose next token is learned."""
        inputs: dict[str, Any] = {"use_cache": False}
        if is_prefix(model):
            batch = prompts.behind_prefix(model, batch)
            if self.row_attention:
                inputs["prefix"] = prompts.prefix_states(model)
            else:
                inputs["past_key_values"] = prompts.prefix_cache(model)
        elif virtual_tokens(model):
            batch = prompts.with_prompts(model, batch)
        given = ("input_ids", "inputs_embeds", "position_ids", *(("row_lengths",) if self.row_attention else ()))
        return {**inputs, **{name: batch[name] for name in given if name in batch}}, batch["predict"]

    def _autocast(self, model: Any) -> Any:
        return torch.autocast(model.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def _agrees(self, model: Any, probes: list[list[int]], expected: list[torch.Tensor]) -> bool:
        try:
            self.prepare(model)
            found = self._all_logits(model, probes)
        except (NotImplementedError, TypeError, AttributeError, ValueError):
            return False  # the model has no such argument or part, so this is not its road
        wanted = torch.cat(expected)
        coarse = model.dtype == torch.bfloat16 or getattr(base_of(model), "is_loaded_in_8bit", False)
        limit = TOLERANCE[self.autocast or (torch.bfloat16 if coarse else torch.float32)]
        return bool((found - wanted).abs().mean() <= limit * wanted.std())

    def _all_logits(self, model: Any, probes: list[list[int]]) -> torch.Tensor:
        """The logits of every position of the probes, computed by this road."""
        lengths = [len(probe) for probe in probes]
        batch: dict[str, Any] = {
            "input_ids": torch.tensor([[token for probe in probes for token in probe]]),
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "predict": torch.arange(sum(lengths)),
            "targets": torch.zeros(sum(lengths), dtype=torch.long),
        }
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()} | {"row_lengths": lengths}
        parts = [batch] if self.flattened else list(row_slices(batch))
        with self._autocast(model):
            laid = [self._inputs(model, part) for part in parts]
            if not self.own_head:
                return torch.cat([self._kept_logits(model, *one) for one in laid]).float()
            head = base_of(model).get_output_embeddings()
            return torch.cat([head(self._hidden(model, *one)) for one in laid]).float()


def base_of(model: Any) -> Any:
    """The causal language model itself. Adapters that PEFT put into its layers stay in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
