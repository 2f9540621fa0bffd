"""OFT (https://arxiv.org/abs/2306.07280)."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from training.engine.methods._layers import WHICH, Layers, for_peft
from training.engine.methods_registry import MethodSettings, Number

name = "oft"
label = "OFT: rotated weights"
prominent = False
order = 30
variants: dict[str, dict[str, Any]] = {"OFT": {}}


class Oft(MethodSettings):
    """Rotate the inputs of each layer in blocks: keeps the angles between neurons, and so more of what the model knew.
    Slower than LoRA."""

    type: Literal["oft"] = "oft"
    block_size: int = Field(
        32,
        ge=2,
        le=1024,
        description="Channels that are rotated together. Larger learns more and costs memory and time with its square; "
        "must divide the width of every layer.",
    )
    target_modules: Layers = Field("all-linear", description=WHICH)

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import OFTConfig, TaskType

        from training.engine.components.model import adapted

        config = OFTConfig(
            r=0,
            oft_block_size=self.block_size,
            use_cayley_neumann=False,  # the series is not quite a rotation, and its merge not quite the same
            target_modules=for_peft(self.target_modules),
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)


Settings = Oft
