"""Prompt tuning (https://arxiv.org/abs/2104.08691)."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.engine.methods import _prompts
from training.engine.methods_registry import Number

name = "prompt"
label = "Prompt tuning: a learned prompt"
prominent = True
order = 50
variants: dict[str, dict[str, Any]] = {"Prompt tuning": {}}


class Prompt(_prompts.LearnedPositions):
    """Learn the embeddings of a prompt that stands before each row: kilobytes, the model untouched. Needs a high
    learning rate and many steps; strong on large models, weak on small ones."""

    rate: ClassVar[float] = 150.0

    type: Literal["prompt"] = "prompt"
    init: Literal["vocabulary", "random"] = Field(
        "vocabulary",
        description="How the prompt begins: with the embeddings of random words (learns sooner) or random numbers.",
    )

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import PromptTuningConfig, PromptTuningInit, TaskType

        from training.engine.components.model import adapted

        config = PromptTuningConfig(
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB if self.init == "vocabulary" else PromptTuningInit.RANDOM,
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)


Settings = Prompt
