"""VeRA (https://arxiv.org/abs/2310.11454)."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.engine.methods._layers import DROPOUT, WHICH, Layers, for_peft
from training.engine.methods_registry import MethodSettings, Number

name = "vera"
label = "VeRA: shared random matrices, learned scales"
prominent = False
order = 40
variants: dict[str, dict[str, Any]] = {"VeRA": {}}


class Vera(MethodSettings):
    """Share one pair of random matrices among all layers and learn only their scales: a tenth of the trained weights of
    LoRA, for many adapters of one base; needs a higher learning rate."""

    rate: ClassVar[float] = 20.0

    type: Literal["vera"] = "vera"
    r: int = Field(
        256, ge=1, le=4096, description="Rank of the shared matrices. Higher learns more and costs time in proportion."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description=DROPOUT)
    target_modules: Layers = Field("all-linear", description=WHICH)

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import TaskType, VeraConfig

        from training.engine.components.model import adapted

        config = VeraConfig(
            r=self.r,
            vera_dropout=self.dropout,
            projection_prng_key=0,
            save_projection=True,
            target_modules=for_peft(self.target_modules),
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)


Settings = Vera
