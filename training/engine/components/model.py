"""The model a run trains: in which number format, and with what put into it."""

from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, get_peft_model

from project.contracts.runs import UserError
from project.modeling.loading import Bits, Dtype, fast_dtype, load_base

Precision = Literal["auto", "fp32", "bf16"]


def number_format(precision: Precision, device: str, *, float32: bool) -> Dtype:
    """What matrices are multiplied in. `auto` is what the device is fast at. `float32` says that the weights must be
    held in it (all of them are trained); on a CPU `auto` then computes in it too.
    """
    if precision == "auto":
        return "float32" if float32 and device == "cpu" else fast_dtype(device)
    return "float32" if precision == "fp32" else "bfloat16"


def autocast_dtype(number: Dtype, device: str, *, float32: bool) -> torch.dtype | None:
    """The dtype of an autocast region, or None for none.

    Trained weights are always float32 (updates in bfloat16 are rounded away), so full fine-tuning in bfloat16 is
    autocast. So are adapters on a GPU; on a CPU they are faster on a bfloat16 base without it.
    """
    return torch.bfloat16 if number == "bfloat16" and (float32 or device != "cpu") else None


def adapted(base: Path, config: PeftConfig, *, device: str, number: Dtype, bits: Bits | None = None) -> Any:
    """The base frozen in `number` (or `bits`) with what `config` adds, in float32 and training mode.

    Raises UserError for layers the model does not have, and for what PEFT can't do with this architecture.
    """
    model = load_base(base, device=device, dtype=number, bits=bits)
    _check_layers(model, config)
    try:
        return get_peft_model(model, config).train()
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"This method can't be used on this model: {error}",
            hint="Choose another method, for example lora.",
            field="method",
        ) from error


def _check_layers(model: Any, config: PeftConfig) -> None:
    named = getattr(config, "target_modules", None)
    if not named or isinstance(named, str):
        return
    wanted = sorted(named)
    paths = [name for name, module in model.named_modules() if hasattr(module, "in_features")]
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
