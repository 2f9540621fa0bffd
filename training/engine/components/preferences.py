"""Losses that learn from a judgement instead of from an answer. Pure functions of log-probabilities.

All take what the policy and, where there is one, the frozen reference say: the log-probability (nats, float32) of an
answer given its prompt, summed over the answer's tokens. All give the sum over the pairs or rows, and figures for the
charts, also summed, which do not depend on how a step is cut into batches.
"""

import torch
from torch.nn.functional import logsigmoid

Figures = dict[str, torch.Tensor]


def dpo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, Figures]:
    """Direct preference optimisation (Rafailov 2023) of pairs [n]; `label_smoothing` as in conservative DPO.

    `beta` is how strongly the policy is held to the reference: the larger, the less it moves.
    """
    for_chosen, for_rejected = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    margin = for_chosen - for_rejected
    losses = -logsigmoid(margin) * (1 - label_smoothing) - logsigmoid(-margin) * label_smoothing
    return losses.sum(), _figures(for_chosen, for_rejected)


def ipo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    *,
    beta: float,
) -> tuple[torch.Tensor, Figures]:
    """Identity preference optimisation (Azar 2023): the margin goes to 1 / (2 beta) and not on to infinity.

    Give it log-probabilities per token: means, not sums.
    """
    for_chosen, for_rejected = chosen - reference_chosen, rejected - reference_rejected
    losses = (for_chosen - for_rejected - 1 / (2 * beta)) ** 2
    return losses.sum(), _figures(beta * for_chosen, beta * for_rejected)


def orpo(
    chosen: torch.Tensor, rejected: torch.Tensor, chosen_nll: torch.Tensor, *, beta: float
) -> tuple[torch.Tensor, Figures]:
    """Odds ratio preference optimisation (Hong 2024), which needs no reference.

    `chosen` and `rejected` [n] are means per token, `chosen_nll` [n] what supervised fine-tuning would minimise; `beta`
    weighs the odds ratio against that.
    """
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    losses = chosen_nll - beta * logsigmoid(odds)
    with torch.no_grad():
        more = {"log_odds": odds.sum(), "nll": chosen_nll.sum()}
    return losses.sum(), {**_figures(beta * chosen, beta * rejected), **more}


def kto(
    answers: torch.Tensor,
    reference: torch.Tensor,
    wanted: torch.Tensor,
    kl: torch.Tensor,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[torch.Tensor, Figures]:
    """Kahneman-Tversky optimisation (Ethayarajh 2024) of rows [n] that are `wanted` or not (bool).

    `kl` is a scalar estimate of how far the policy is from the reference, without gradient: see `mismatch_kl`.
    """
    ratio = answers - reference
    values = torch.where(wanted, torch.sigmoid(beta * (ratio - kl)), torch.sigmoid(beta * (kl - ratio)))
    weights = torch.where(wanted, desirable_weight, undesirable_weight)
    with torch.no_grad():
        rewards = beta * ratio
        good = wanted.float()
        figures = {
            "rewards_wanted": (rewards * good).sum(),
            "rewards_unwanted": (rewards * (1 - good)).sum(),
            "wanted": good.sum(),
            "kl": kl.detach() * len(answers),
        }
    return (weights * (1 - values)).sum(), figures


def mismatch_kl(mismatched: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KTO's estimate of the distance: the mean log-ratio of answers to other rows' prompts, at least 0."""
    return (mismatched - reference).mean().clamp(min=0).detach()


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor, *, centre: float = 0.0) -> tuple[torch.Tensor, Figures]:
    """A reward model's loss over pairs of scores [n] (Bradley and Terry 1952). `centre` keeps them around 0
    (Eisenstein 2023)."""
    losses = -logsigmoid(chosen - rejected)
    if centre:
        losses = losses + centre * (chosen + rejected) ** 2
    return losses.sum(), _figures(chosen, rejected)


def _figures(chosen: torch.Tensor, rejected: torch.Tensor) -> Figures:
    with torch.no_grad():
        return {
            "rewards_chosen": chosen.sum(),
            "rewards_rejected": rejected.sum(),
            "reward_margin": (chosen - rejected).sum(),
            "preference_accuracy": (chosen > rejected).float().sum(),
        }


def _log1mexp(value: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(value)) for value < 0, without loss of digits (Maechler 2012)."""
    value = value.clamp(max=-1e-7)
    return torch.where(value > -0.6931472, torch.log(-torch.expm1(value)), torch.log1p(-torch.exp(value)))
