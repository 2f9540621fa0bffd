"""The loss over learned positions only, without ever holding the logits of a whole batch.

The vocabulary is the largest matrix of a small model, and most positions of a chat row are not learned: projecting only
those that are, a few hundred at a time, saves a fifth of a step and most of the memory. The gradient comes with the
loss, as in Liger Kernel's fused linear cross entropy (https://arxiv.org/abs/2410.10989).
"""

from typing import Any

import torch
from torch.nn.functional import linear

CHUNK = 256  # positions whose logits exist at one time


def summed_nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """Sum of the negative log-likelihoods (nats, float32) of `targets` [n] given hidden states [n, width].

    `weight` [vocabulary, width] and `bias` [vocabulary] or None are the output layer. Logits are computed in the dtype
    of `hidden` and the loss in float32. Differentiable once, in `hidden`, `weight` and `bias`.
    """
    bias = None if bias is None else bias.to(hidden.dtype)
    if not torch.is_grad_enabled():  # autograd functions are not told, and would compute gradients for nobody
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return _SummedNll.apply(hidden, weight.to(hidden.dtype), bias, targets, chunk)


class _SummedNll(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any, chunk: int) -> Any:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        for start in range(0, hidden.shape[0], chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = linear(part, weight, bias).float()
            log_total = logits.logsumexp(-1, keepdim=True)
            total += (log_total - logits.gather(1, wanted)).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            slope = logits.sub_(log_total).exp_()  # the softmax, in place: the logits are not needed any more
            slope.scatter_add_(1, wanted, torch.full_like(log_total, -1.0))
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            if grad_weight is not None:
                grad_weight.addmm_(slope.t(), part.float())
            if grad_hidden is not None:
                grad_hidden[start : start + chunk] = slope.to(hidden.dtype) @ weight
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight.dtype, weight.dtype if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * slope.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * slope).to(weight_dtype),
            None if grad_bias is None else (grad_bias * slope).to(bias_dtype),
            None,
            None,
        )


def token_nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """The negative log-likelihood of each target [n], as `summed_nll`; for losses that weigh rows against each other.

    The logits are computed again on the way back, because only then is known what each token counts for.
    """
    bias = None if bias is None else bias.to(hidden.dtype)
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return _TokenNll.apply(hidden, weight.to(hidden.dtype), bias, targets, chunk)


class _TokenNll(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any, chunk: int) -> Any:
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        totals = torch.empty_like(found)
        for start in range(0, len(targets), chunk):
            end = start + chunk
            logits = linear(hidden[start:end], weight, bias).float()
            totals[start:end] = logits.logsumexp(-1)
            found[start:end] = totals[start:end] - logits.gather(1, targets[start:end, None])[:, 0]
        ctx.save_for_backward(hidden, weight, bias, targets, totals)
        ctx.chunk = chunk
        return found

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, ...]:
        hidden, weight, bias, targets, totals = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        for start in range(0, len(targets), ctx.chunk):
            end = start + ctx.chunk
            part = hidden[start:end]
            steep = linear(part, weight, bias).float().sub_(totals[start:end, None]).exp_()
            steep.scatter_add_(1, targets[start:end, None], torch.full_like(totals[start:end, None], -1.0))
            steep *= slope[start:end, None]
            if grad_bias is not None:
                grad_bias += steep.sum(0)
            if grad_weight is not None:
                grad_weight.addmm_(steep.t(), part.float())
            if grad_hidden is not None:
                grad_hidden[start:end] = steep.to(hidden.dtype) @ weight
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )
