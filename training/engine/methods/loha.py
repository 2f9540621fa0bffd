"""LoHa (https://arxiv.org/abs/2108.06098)."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from training.engine.methods._layers import WHICH, Layers, for_peft
from training.engine.methods_registry import MethodSettings, Number

name = "loha"
label = "LoHa: products of two small adapters"
prominent = False
order = 20
variants: dict[str, dict[str, Any]] = {"LoHa": {}}


class LoHa(MethodSettings):
    """Multiply two low-rank changes element by element: reaches the rank r² with twice the weights of LoRA, in about
    twice its time."""

    type: Literal["loha"] = "loha"
    r: int = Field(8, ge=1, le=256, description="Rank of each of the two; the change has up to its square.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale of the adapter; it acts as alpha / r.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the ranks dropped at random in training, against overfitting."
    )
    target_modules: Layers = Field("all-linear", description=WHICH)

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import LoHaConfig, TaskType

        from training.engine.components.model import adapted

        config = LoHaConfig(
            r=self.r,
            alpha=self.alpha,
            rank_dropout=self.dropout,
            target_modules=for_peft(self.target_modules),
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)


Settings = LoHa
