"""Writing what was learned: an adapter, or a whole model that loads like any other."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from project.modeling.loading import restore_cache

NEUTRAL_BASE = "base"  # an adapter names no path: the registry knows its base


def save_weights(model: Any, folder: Path) -> None:
    """Write the adapter of a PEFT model, or all weights and the config of a plain one, as safetensors."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), save_embedding_layers=False)
        _neutralise(folder / "adapter_config.json")
    else:
        restore_cache(model)
        model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # a model card that names the base's path on this host
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them private to this user


def load_weights(model: Any, folder: Path) -> None:
    """Put back what `save_weights` wrote, into the same kind of model. Raises ValueError if it is another kind."""
    state = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    if isinstance(model, PeftModel):
        outcome = set_peft_model_state_dict(model, state)
        missing = [name for name in outcome.missing_keys if ".lora_" in name]
    else:
        outcome = model.load_state_dict(state, strict=False)
        missing = [name for name in outcome.missing_keys if name not in (model._tied_weights_keys or {})]
    if missing or outcome.unexpected_keys:
        raise ValueError(f"{folder.name} does not fit the model: {(missing or outcome.unexpected_keys)[0]}")


def all_finite(model: Any) -> bool:
    """Whether no trained weight is infinite or not a number."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)


def link_tree(source: Path, target: Path) -> None:
    """Put the files of `source` into a new folder `target` by hard links, or by copies where links are not possible."""
    import shutil

    target.mkdir(parents=True)
    for file in source.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)


def _neutralise(config: Path) -> None:
    content = json.loads(config.read_text())
    content["base_model_name_or_path"] = NEUTRAL_BASE
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
