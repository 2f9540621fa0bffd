"""Learned positions before every row: prompts as embeddings, prefixes as keys and values of every layer.

PEFT's own way through `generate` counts padding among the positions, so that a row answers differently beside a longer
one. Here rows begin as they did in training, whatever they are padded to.
"""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache


@dataclass(frozen=True)
class Opening:
    """What every row begins with: `embeddings` [count, width], or each layer's keys and values
    [1, heads, count, width]."""

    count: int
    embeddings: "torch.Tensor | None" = None
    states: "tuple[tuple[torch.Tensor, torch.Tensor], ...]" = ()


def virtual_tokens(model: Any) -> int:
    """How many learned positions a model puts before every row; 0 for models and adapters without."""
    config = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def is_prefix(model: Any) -> bool:
    """Are they keys and values of every layer, not embeddings?"""
    return bool(virtual_tokens(model)) and model.active_peft_config.peft_type == "PREFIX_TUNING"


def opening_of(model: Any) -> Opening | None:
    """The learned positions of a PEFT model, or None if it has none."""
    count = virtual_tokens(model)
    if not count:
        return None
    learned = model.get_prompt(batch_size=1)
    if is_prefix(model):
        return Opening(count, states=tuple((layer.keys, layer.values) for layer in learned.layers))
    return Opening(count, embeddings=learned[0])


def read(
    base: Any, opening: Opening, ids: "torch.Tensor", mask: "torch.Tensor", cache: "Cache"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Read prompts behind the opening: logits [rows, vocabulary] of their last position, and the mask of the cache.

    `ids` and `mask` [rows, positions] are padded on the left; `cache` is empty, and holds the opening, the padding and
    the prompts afterwards. `base` is the causal language model itself.
    """
    import torch

    rows, count = ids.shape[0], opening.count
    whole = torch.cat([mask.new_ones((rows, count)), mask], dim=1)
    positions = (whole.cumsum(-1) - 1).clamp(min=0)
    given: dict[str, Any]
    if opening.embeddings is None:
        for layer, (keys, values) in enumerate(opening.states):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        given = {"input_ids": ids, "position_ids": positions[:, count:]}
    else:
        words = base.get_input_embeddings()(ids)
        prompt = opening.embeddings.to(words.dtype).expand(rows, -1, -1)
        given = {"inputs_embeds": torch.cat([prompt, words], dim=1), "position_ids": positions}
    if "logits_to_keep" in inspect.signature(base.forward).parameters:
        given["logits_to_keep"] = 1
    output = base(**given, attention_mask=whole, past_key_values=cache, use_cache=True)
    return output.logits[:, -1], whole
