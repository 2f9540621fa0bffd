"""Prefix tuning (https://arxiv.org/abs/2101.00190)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from training.engine.methods import _prompts
from training.engine.methods_registry import Number

name = "prefix"
label = "Prefix tuning: learned keys and values"
prominent = True
order = 40
variants: dict[str, dict[str, Any]] = {"Prefix tuning": {}, "Prefix tuning, projected": {"projection": True}}


class Prefix(_prompts.LearnedPositions):
    """Learn keys and values that every layer attends to before each row. The model itself stays untouched; steers
    stronger than a learned prompt, and can't be merged."""

    rate: ClassVar[float] = 50.0
    refuses: ClassVar[Mapping[str, str]] = {
        "packing": _prompts.NO_PACKING,
        "gradient_checkpointing": "learned keys and values come from the cache, which is off when activations are "
        "computed twice",
    }

    type: Literal["prefix"] = "prefix"
    projection: bool = Field(
        False,
        description="Learn them through a small network: steadier on little data, many more weights in training, the "
        "same result size. It begins with random numbers.",
    )
    init: Literal["words", "random"] = Field(
        "words",
        description="How the prefix begins: with what the model itself makes of random words (hardly disturbs it at "
        "first), or with random numbers (far off at first).",
    )

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import PrefixTuningConfig, TaskType

        from training.engine.components.model import adapted

        config = PrefixTuningConfig(
            num_virtual_tokens=self.num_virtual_tokens, prefix_projection=self.projection, task_type=TaskType.CAUSAL_LM
        )
        model = adapted(base, config, device=device, number=number)
        if self.init == "words" and not self.projection:
            _begin_with_words(model, self.num_virtual_tokens)
        return model


def _begin_with_words(model: Any, count: int) -> None:
    """Take the keys and values that the model itself has for random tokens, as the paper advises (section 7.4)."""
    import torch
    from transformers import DynamicCache

    base, cache = model.get_base_model(), DynamicCache()
    words = torch.randint(base.config.get_text_config().vocab_size, (1, count)).to(model.device)
    with torch.no_grad():
        base(input_ids=words, past_key_values=cache, use_cache=True)
        states = [state for layer in cache.layers for state in (layer.keys, layer.values)]
        flat = torch.cat([state[0].transpose(0, 1).reshape(count, -1) for state in states], dim=1)
        weight = model.prompt_encoder["default"].embedding.weight
        if flat.shape == weight.shape:  # layers of different widths: PEFT takes the widest for all
            weight.copy_(flat)


Settings = Prefix
