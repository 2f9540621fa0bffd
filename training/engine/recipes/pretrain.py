"""Continued pretraining: learn texts, word by word, as base models do.

For a language or a field that the model knows little of. Needs far more text than fine-tuning needs rows, and makes a
model that goes on with texts; fine-tune it afterwards so that it answers.
"""

from typing import Literal

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext
from training.engine import settings
from training.engine.finetuning import fine_tune

name = "pretrain"
label = "Continued pretraining on text"
eats = (RowKind.TEXT,)
needs: Literal["device"] = "device"
preload = settings.PRELOAD
resumable = True
rate = 0.5  # the usual learning rate, as a multiple of supervised fine-tuning's
charts = settings.CHARTS
smaller, remedies, disk_bytes = settings.smaller, settings.remedies, settings.disk_bytes


class PretrainParams(settings.PackedParams):
    """A run over texts. Longer ones are learned in pieces of max_seq_length tokens; nothing is cut off."""


Params = PretrainParams


def run(params: PretrainParams, ctx: RunContext) -> None:
    """Train, and leave the adapter, or the whole model with its tokenizer, in the artifact folder."""
    from training.engine.components.objectives import Answers
    from training.engine.components.readings import TEXTS

    fine_tune(params, ctx, TEXTS, Answers())
