"""A different LoRA adapter for each row of a batch, in two batched matrix products per layer.

PEFT's own `adapter_names` registers hooks on every layer at every step and then goes through the adapters one by one.
Here the matrices of all adapters lie in one tensor per layer, and each row picks its own (as in Punica, Chen et al.
2023). Rows without an adapter, and layers an adapter does not touch, pick zeros.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer


class RowChoice:
    """Shared by all layers: which adapter each row of the present batch picks; None while PEFT decides."""

    slots: torch.Tensor | None = None


class MixedLinear(Linear):  # type: ignore[misc]
    """PEFT's LoRA layer, and the adapters of all rows at once while `choice.slots` says who has which."""

    choice: RowChoice
    down: torch.Tensor | None  # (adapters + 1, in, r), the last one zeros; None if no adapter touches this layer
    up: torch.Tensor | None  # (adapters + 1, r, out), scaled

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        slots = self.choice.slots
        if slots is None:
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        base: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.down is None or self.up is None:
            return base
        change = torch.bmm(torch.bmm(x.to(self.down.dtype), self.down[slots]), self.up[slots])
        return (base + change).to(base.dtype)

    def stack(self, names: Sequence[str]) -> None:
        """Lay the adapters `names` side by side, padded to the highest rank."""
        self.down = self.up = None
        mine = {slot: name for slot, name in enumerate(names) if name in self.lora_A}
        if not mine:
            return
        weights = [self.lora_A[name].weight for name in mine.values()]
        rank = max(weight.shape[0] for weight in weights)
        self.down = weights[0].new_zeros((len(names) + 1, self.in_features, rank))
        self.up = weights[0].new_zeros((len(names) + 1, rank, self.out_features))
        for slot, name in mine.items():
            r = self.lora_A[name].weight.shape[0]
            self.down[slot, :, :r] = self.lora_A[name].weight.T
            self.up[slot, :r] = self.lora_B[name].weight.T * self.scaling[name]


class Mixer:
    """Mixes the adapters of a PEFT model. Ask `can_mix` after loading one; call `prepare` when the set has changed."""

    def __init__(self) -> None:
        self._choice = RowChoice()
        self._slots: dict[str, int] = {}

    @staticmethod
    def can_mix(model: torch.nn.Module, adapter: str) -> bool:
        """Is it plain LoRA on plain linear layers that see (rows, positions, width)?"""
        layers = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, LoraLayer) and adapter in {*module.lora_A, *module.lora_embedding_A}
        ]
        return bool(layers) and all(
            isinstance(module, Linear)
            and adapter in module.lora_A
            and adapter not in module.lora_variant
            and not module.lora_bias.get(adapter)
            and ".experts." not in name
            for name, module in layers
        )

    def prepare(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        """Make ready to mix the adapters `names`."""
        self._slots = {name: slot for slot, name in enumerate(names)}
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Linear):
                    module.__class__ = MixedLinear
                    module.choice = self._choice
                    module.stack(names)

    def forget(self) -> None:
        self._slots = {}

    @property
    def is_ready(self) -> bool:
        return bool(self._slots)

    def choose(self, names: Sequence[str] | None, device: torch.device) -> None:
        """From now on row i uses adapter `names[i]`, or none if nobody prepared that name. None: PEFT decides."""
        if names is None:
            self._choice.slots = None
        else:
            slots = [self._slots.get(name, len(self._slots)) for name in names]
            self._choice.slots = torch.tensor(slots, device=device)
