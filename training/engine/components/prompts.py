"""Learned positions before every row of a flattened batch.

PEFT puts them before the first row only when rows are laid end to end; here each row gets its own.
"""

from typing import Any

import torch
from transformers import Cache

from project.modeling.prompts import virtual_tokens


def with_prompts(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The flattened `batch` with the model's prompt before each of its rows: `inputs_embeds` [1, tokens, width] instead
    of ids; lengths, positions and `predict` count the prompts too.
    """
    lengths, count = batch["row_lengths"], virtual_tokens(model)
    words = model.word_embeddings(batch["input_ids"])[0]
    prompt = model.get_prompt(batch_size=1)[0].to(words.dtype)
    longer = [length + count for length in lengths]
    device = words.device
    shift = torch.cat([torch.full((n,), count * number) for number, n in enumerate(lengths, start=1)]).to(device)
    return {
        "inputs_embeds": torch.cat([part for row in words.split(lengths) for part in (prompt, row)])[None],
        "position_ids": torch.cat([torch.arange(length, device=device) for length in longer])[None],
        "predict": batch["predict"] + shift[batch["predict"]],
        "targets": batch["targets"],
        "row_lengths": longer,
    }


def behind_prefix(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The same batch, its positions counted behind the prefix."""
    return {**batch, "position_ids": batch["position_ids"] + virtual_tokens(model)}


def prefix_cache(model: Any) -> Cache:
    """The model's prefix as a key-value cache of one row, new at each call."""
    return model.get_prompt(batch_size=1)


def prefix_states(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per layer the keys and values of the prefix, each [1, heads, positions, width]."""
    return [(layer.keys, layer.values) for layer in prefix_cache(model).layers]
