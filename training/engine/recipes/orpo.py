"""Odds ratio preference optimisation: learn the better answers, and to prefer them, in one go and without a reference.

https://arxiv.org/abs/2403.07691. A model that has not seen the task yet learns it and the preference together.
"""

from typing import Literal

from pydantic import Field

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext
from training.engine import settings
from training.engine.finetuning import fine_tune

name = "orpo"
label = "Preference pairs, from scratch (ORPO)"
eats = (RowKind.PREFERENCE,)
needs: Literal["device"] = "device"
preload = settings.PRELOAD
resumable = True
rate = 0.25  # the usual learning rate, as a multiple of supervised fine-tuning's
charts = (
    *settings.CHARTS,
    ("Rewards", "reward_margin,eval_reward_margin", "Margin,Margin (held out)"),
    ("Preferred", "preference_accuracy,eval_preference_accuracy", "Training,Held out"),
)
smaller, remedies, disk_bytes = settings.smaller, settings.remedies, settings.disk_bytes


class OrpoParams(settings.TrainParams):
    """A fine-tune on pairs. `batch_size` counts pairs, so twice as many rows are in memory."""

    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="What the preference counts for beside learning the better answer. 0.1 is usual.",
    )


Params = OrpoParams


def run(params: OrpoParams, ctx: RunContext) -> None:
    """Train, and leave the adapter, or the whole model with its tokenizer, in the artifact folder."""
    from training.engine.components.objectives import Odds
    from training.engine.components.readings import PAIRS

    fine_tune(params, ctx, PAIRS, Odds(params.beta))
