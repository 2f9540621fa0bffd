"""P-tuning (https://arxiv.org/abs/2103.10385)."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.engine.methods import _prompts
from training.engine.methods_registry import Number

name = "p-tuning"
label = "P-tuning: a prompt learned by a network"
prominent = True
order = 60
variants: dict[str, dict[str, Any]] = {"P-tuning": {}}


class PTuning(_prompts.LearnedPositions):
    """Learn a prompt through a small network that is thrown away afterwards: steadier than prompt tuning, and as small
    a result."""

    rate: ClassVar[float] = 5.0

    type: Literal["p-tuning"] = "p-tuning"
    hidden_size: int = Field(
        256, ge=8, le=16384, description="Width of the network. Wider can express more; it is not kept."
    )

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import PromptEncoderConfig, TaskType

        from training.engine.components.model import adapted

        config = PromptEncoderConfig(
            num_virtual_tokens=self.num_virtual_tokens,
            encoder_hidden_size=self.hidden_size,
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)


Settings = PTuning
