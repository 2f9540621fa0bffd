"""AdaLoRA (https://arxiv.org/abs/2303.10512)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.engine.methods._layers import DROPOUT, WHICH, Layers, for_peft
from training.engine.methods_registry import MethodSettings, Number

if TYPE_CHECKING:
    import torch

name = "adalora"
label = "AdaLoRA: ranks where they matter"
prominent = False
order = 10
variants: dict[str, dict[str, Any]] = {"AdaLoRA": {}}

_SENSITIVITY = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what the allocator remembers of every parameter
_PATTERN = "rank_pattern:"


class AdaLora(MethodSettings):
    """LoRA that begins with a higher rank and gives up what matters least, layer by layer, until the average rank is
    reached. A little better than LoRA for the same size, a little slower."""

    rate: ClassVar[float] = 5.0

    type: Literal["adalora"] = "adalora"
    r: int = Field(
        8, ge=1, le=512, description="Average rank that is left in the end. It begins with one and a half times this."
    )
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale of the adapter; it acts as alpha / first rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description=DROPOUT)
    orthogonality: float = Field(
        0.5, ge=0, le=100, description="How strongly directions are kept apart, which makes ranks comparable."
    )
    target_modules: Layers = Field("all-linear", description=WHICH)

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import AdaLoraConfig, TaskType

        from training.engine.components.model import adapted

        config = AdaLoraConfig(
            target_r=self.r,
            init_r=self.r + max(1, self.r // 2),
            tinit=total_steps // 10,
            tfinal=total_steps // 4,
            deltaT=1,
            total_step=total_steps,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            orth_reg_weight=self.orthogonality,
            target_modules=for_peft(self.target_modules),
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)

    def penalty(self, model: Any) -> "torch.Tensor | None":
        """Mean distance of the directions' products from the identity, as in the paper (equation 4)."""
        import torch

        distances = []
        for key, value in model.named_parameters():
            if value.requires_grad and (".lora_A." in key or ".lora_B." in key):
                product = value @ value.T if ".lora_A." in key else value.T @ value
                distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
        return self.orthogonality * torch.stack(distances).mean() if self.orthogonality else None

    def after_step(self, model: Any, step: int) -> None:
        model.base_model.update_and_allocate(step)

    def state(self, model: Any) -> "dict[str, torch.Tensor]":
        import torch

        allocator, pattern = model.base_model.rankallocator, model.peft_config["default"].rank_pattern
        known = {f"{which}:{key}": value for which in _SENSITIVITY for key, value in getattr(allocator, which).items()}
        return known | {f"{_PATTERN}{key}": torch.tensor(kept) for key, kept in (pattern or {}).items()}

    def restore(self, model: Any, state: "dict[str, torch.Tensor]") -> None:
        allocator, pattern = model.base_model.rankallocator, {}
        for key, value in state.items():
            which, _, parameter = key.partition(":")
            if key.startswith(_PATTERN):
                pattern[parameter] = value.tolist()
            else:
                getattr(allocator, which)[parameter] = value.to(model.device)
        model.peft_config["default"].rank_pattern = pattern or None


Settings = AdaLora
