"""The model a run trains: in which number format, and with what put into it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, TaskType, get_peft_model

from project.contracts.runs import UserError
from project.modeling.loading import Dtype, fast_dtype, load_base

Precision = Literal["auto", "fp32", "bf16"]


def number_format(precision: Precision, device: str, *, full: bool) -> Dtype:
    """What matrices are multiplied in. `auto` is what the device is fast at, but float32 for all weights on a CPU."""
    if precision == "auto":
        return "float32" if full and device == "cpu" else fast_dtype(device)
    return "float32" if precision == "fp32" else "bfloat16"


def autocast_dtype(number: Dtype, device: str, *, full: bool) -> torch.dtype | None:
    """The dtype of an autocast region, or None for none.

    Trained weights are always float32 (updates in bfloat16 are rounded away), so full fine-tuning in bfloat16 is
    autocast. So is LoRA on a GPU; on a CPU LoRA is faster on a bfloat16 base without it.
    """
    return torch.bfloat16 if number == "bfloat16" and (full or device != "cpu") else None


def full_model(base: Path, *, device: str) -> Any:
    """All weights of the base in float32, all of them trained."""
    return load_base(base, device=device, dtype="float32").train()


def lora_model(
    base: Path,
    *,
    device: str,
    number: Dtype,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: str | Sequence[str],
) -> Any:
    """The base frozen in `number`, with float32 LoRA adapters. Raises UserError for layers the model does not have."""
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        task_type=TaskType.CAUSAL_LM,
    )
    model = load_base(base, device=device, dtype=number)
    paths = [name for name, module in model.named_modules() if hasattr(module, "in_features")]
    wanted = [] if isinstance(target_modules, str) else list(target_modules)
    wrong = [name for name in wanted if not any(f".{path}".endswith(f".{name}") for path in paths)]
    if wrong or "lm_head" in wanted:
        known = sorted({path.rpartition(".")[2] for path in paths} - {"lm_head"})
        raise UserError(
            f"The model has no layers named {', '.join(wrong)} that can be adapted."
            if wrong
            else "An adapter on lm_head is not supported: the loss is computed from its own weights.",
            hint=f"Choose all-linear or some of: {', '.join(known)}.",
            field="method.target_modules",
        )
    return get_peft_model(model, config).train()
