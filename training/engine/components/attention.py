"""Attention over several rows laid end to end: each attends to itself only, and nothing is computed in between.

A dense block-diagonal mask gives the same numbers but multiplies the blocks outside the diagonal too: at packs of 2,048
tokens that makes a whole training step 1.7 times as slow on a CPU.
"""

from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "tuneloop-rows"


def rows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    row_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    prefix: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    **extras: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention for one flattened batch: query [1, heads, tokens, width], result [1, tokens, heads, width].

    `row_lengths` reaches this function as an argument of the model's forward and must add up to the tokens. So does
    `prefix`: per layer keys and values [1, heads, positions, width] that every row attends to besides itself. Raises
    NotImplementedError for what a model may ask for besides (soft caps, sinks, biases, windows shorter than a row).
    """
    asked = [name for name in ("softcap", "s_aux", "position_bias") if extras.get(name) is not None]
    if asked or attention_mask is not None or row_lengths is None:
        raise NotImplementedError(f"row attention without row lengths, or with {asked or 'a mask'}")
    before = 0 if prefix is None else prefix[module.layer_idx][0].shape[2]
    if sliding_window is not None and sliding_window < max(row_lengths) + before:
        raise NotImplementedError("row attention with a sliding window shorter than a row")
    rows = zip(*(tensor.split(row_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    grouped = key.shape[1] != query.shape[1]
    if prefix is None:
        attended = [
            scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
            for q, k, v in rows
        ]
    else:
        attended = [
            _behind(prefix[module.layer_idx], q, k, v, dropout_p=dropout, scale=scaling, enable_gqa=grouped)
            for q, k, v in rows
        ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _behind(
    prefix: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any
) -> torch.Tensor:
    """Causal attention of one row to itself and to all of a prefix, which is keys and values."""
    keys, values = (torch.cat([first.to(own.dtype), own], dim=2) for first, own in zip(prefix, (k, v), strict=True))
    mask = causal_lower_right(q.shape[2], keys.shape[2])
    return scaled_dot_product_attention(q, keys, values, attn_mask=mask, **how)


# No mask function goes with it: transformers makes no mask for an implementation that has none.
AttentionInterface.register(NAME, rows_attention)
