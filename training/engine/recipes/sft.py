"""Supervised fine-tuning: learn the answers of conversations.

With any of the methods (`training.engine.methods`), on ids from `project.modeling.render`.
"""

from typing import Literal

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext
from training.engine import settings
from training.engine.finetuning import fine_tune

name = "sft"
label = "Supervised fine-tuning"
eats = (RowKind.CHAT, RowKind.COMPLETION)
needs: Literal["device"] = "device"
preload = settings.PRELOAD
resumable = True  # an interrupted run goes on from its checkpoint to the same weights, bit for bit
charts = settings.CHARTS
smaller, remedies, disk_bytes = settings.smaller, settings.remedies, settings.disk_bytes


class SftParams(settings.PackedParams):
    """Everything a run depends on besides its inputs `base`, `data` and, instead of a split, `validation`."""


Params = SftParams


def run(params: SftParams, ctx: RunContext) -> None:
    """Train, and leave the adapter, or the whole model with its tokenizer, in the artifact folder."""
    from training.engine.components.objectives import Answers
    from training.engine.components.readings import ANSWERS

    fine_tune(params, ctx, ANSWERS, Answers())
