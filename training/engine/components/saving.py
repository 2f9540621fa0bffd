"""Writing what was learned: an adapter, or a whole model that loads like any other."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from project.modeling.loading import restore_cache
from project.modeling.prompts import virtual_tokens
from training.engine.methods_registry import MethodSettings

TRAINED = "trained"  # a folder of a checkpoint
MEMORY = "memory."  # begins the names of what a method remembers
NEUTRAL_BASE = "base"  # an adapter names no path: the registry knows its base


def save_weights(model: Any, folder: Path, method: MethodSettings) -> None:
    """Write the adapter of a PEFT model, or all weights and the config of a plain one, as safetensors.

    This is what people use; what a resumed run needs besides, `save_state` writes.
    """
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), save_embedding_layers=False)
        method.export(model, folder)
        _neutralise(folder / "adapter_config.json")
    else:
        restore_cache(model)
        model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # a model card that names the base's path on this host
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them private to this user


def save_state(model: Any, folder: Path, method: MethodSettings) -> None:
    """Write beside an adapter in `folder` what is trained, where that is more or other than what is kept: the network
    behind a prompt, ranks that were given up, what the method remembers.
    """
    if not isinstance(model, PeftModel):
        return
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    kept = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    memory = {f"{MEMORY}{name}": tensor.contiguous() for name, tensor in method.state(model).items()}
    if memory or virtual_tokens(model) or _sizes(kept) != _sizes(trained):
        (folder / TRAINED).mkdir(exist_ok=True)
        save_file({**trained, **memory}, folder / TRAINED / "state.safetensors")


def load_weights(model: Any, folder: Path, method: MethodSettings) -> None:
    """Put back what `save_weights` and `save_state` wrote, into the same kind of model. Raises ValueError if it is
    another kind."""
    if (folder / TRAINED).is_dir():
        _load_state(model, folder, method)
        return
    state = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    if isinstance(model, PeftModel):
        outcome = set_peft_model_state_dict(model, state)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        missing = [name for name in outcome.missing_keys if name in trained]
    else:
        outcome = model.load_state_dict(state, strict=False)
        missing = [name for name in outcome.missing_keys if name not in (model._tied_weights_keys or {})]
    if missing or outcome.unexpected_keys:
        raise ValueError(f"{folder.name} does not fit the model: {(missing or outcome.unexpected_keys)[0]}")


def _load_state(model: Any, folder: Path, method: MethodSettings) -> None:
    state = load_file(folder / TRAINED / "state.safetensors")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    memory = {name.removeprefix(MEMORY): state.pop(name) for name in list(state) if name.startswith(MEMORY)}
    wrong = sorted(trained.keys() ^ state.keys()) or [n for n, p in trained.items() if p.shape != state[n].shape]
    if wrong:
        raise ValueError(f"{folder.name} does not fit the model: {wrong[0]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])
    method.restore(model, memory)


def _sizes(tensors: Mapping[str, torch.Tensor]) -> list[int]:
    return sorted(tensor.numel() for tensor in tensors.values())


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
