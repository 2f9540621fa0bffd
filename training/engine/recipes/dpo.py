"""Direct preference optimisation: learn to prefer the better of two answers, without a reward model.

https://arxiv.org/abs/2305.18290; IPO: https://arxiv.org/abs/2310.12036. What the untrained model says of each answer is
computed once before training, so that no second model is held in memory.
"""

from typing import Literal

from pydantic import Field

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext
from training.engine import settings
from training.engine.finetuning import fine_tune

name = "dpo"
label = "Preference pairs (DPO)"
eats = (RowKind.PREFERENCE,)
needs: Literal["device"] = "device"
preload = settings.PRELOAD
resumable = True
rate = 0.1  # the usual learning rate, as a multiple of supervised fine-tuning's
charts = (
    *settings.CHARTS,
    ("Rewards", "reward_margin,eval_reward_margin", "Margin,Margin (held out)"),
    ("Preferred", "preference_accuracy,eval_preference_accuracy", "Training,Held out"),
)
smaller, remedies, disk_bytes = settings.smaller, settings.remedies, settings.disk_bytes


class DpoParams(settings.TrainParams):
    """A fine-tune on pairs. `batch_size` counts pairs, so twice as many rows are in memory."""

    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="How strongly the model is held to what it said before. 0.1 is usual; smaller learns "
        "the preferences faster and forgets more, larger hardly moves.",
    )
    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid",
        description="sigmoid is DPO; ipo stops pulling two answers apart at a fixed margin, against "
        "overfitting on clear preferences.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the pairs that may be judged wrongly (conservative DPO)."
    )


Params = DpoParams


def run(params: DpoParams, ctx: RunContext) -> None:
    """Train, and leave the adapter, or the whole model with its tokenizer, in the artifact folder."""
    from training.engine.components.objectives import Direct
    from training.engine.components.readings import PAIRS

    fine_tune(params, ctx, PAIRS, Direct(params.beta, params.label_smoothing, params.loss))
