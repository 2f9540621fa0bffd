"""Kahneman-Tversky optimisation: learn from answers that somebody found good or bad, each by itself.

https://arxiv.org/abs/2402.01306. What the untrained model says of each answer is computed once before training.
"""

from typing import Literal

from pydantic import Field

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext
from training.engine import settings
from training.engine.finetuning import fine_tune

name = "kto"
label = "Thumbs up and down (KTO)"
eats = (RowKind.UNPAIRED,)
needs: Literal["device"] = "device"
preload = settings.PRELOAD
resumable = True
rate = 0.1  # the usual learning rate, as a multiple of supervised fine-tuning's
charts = (
    *settings.CHARTS,
    ("Rewards", "reward_margin,eval_reward_margin", "Margin,Margin (held out)"),
    ("Distance (KL)", "kl,eval_kl", "Training,Held out"),
)
smaller, remedies, disk_bytes = settings.smaller, settings.remedies, settings.disk_bytes


class KtoParams(settings.TrainParams):
    """A fine-tune on judged answers. How far the model has moved is estimated within each batch of `batch_size`."""

    batch_size: int = Field(
        8,
        ge=2,
        le=4096,
        description="Answers in memory at once, and as many again that they are compared with. At least 2; "
        "8 and more steady the estimate of how far the model has moved.",
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="How strongly the model is held to what it said before. 0.1 is usual.",
    )
    desirable_weight: float = Field(
        1.0,
        gt=0,
        le=100,
        description="What a good answer counts for. With few of them raise it: good ones times this should be "
        "1 to 4/3 of bad ones times theirs.",
    )
    undesirable_weight: float = Field(1.0, gt=0, le=100, description="What a bad answer counts for.")


Params = KtoParams


def run(params: KtoParams, ctx: RunContext) -> None:
    """Train, and leave the adapter, or the whole model with its tokenizer, in the artifact folder."""
    from training.engine.components.objectives import Judgements
    from training.engine.components.readings import JUDGED

    objective = Judgements(params.beta, params.desirable_weight, params.undesirable_weight, params.max_seq_length)
    fine_tune(params, ctx, JUDGED, objective)
