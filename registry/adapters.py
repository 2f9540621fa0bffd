"""What a PEFT folder says about itself. Pure: recipes use it too."""

import json
from pathlib import Path
from typing import Any

from project.contracts.runs import UserError
from project.modeling import weights

CONFIG = "adapter_config.json"
_KEPT = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "num_virtual_tokens", "bias")


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def describe_adapter(folder: Path) -> dict[str, Any]:
    """Method, its settings, parameters, bytes and dtype of a PEFT folder, without torch. Raises UserError."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{CONFIG} can't be read: {error}", field="source") from error
    tensors = list(weights.tensors(folder))
    sizes = {tensor.dtype: 0 for tensor in tensors}
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.count
    return {
        "method": str(config.get("peft_type", "unknown")).lower(),
        "settings": {name: config[name] for name in _KEPT if config.get(name) is not None},
        "trained_on": str(config.get("base_model_name_or_path") or ""),
        "parameters": sum(sizes.values()),
        "bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        "dtype": {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}.get(
            max(sizes, key=lambda d: sizes[d]), "unknown"
        ),
    }
