"""All weights."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from training.engine.methods_registry import MethodSettings, Number

name = "full"
label = "Full: every weight, much memory"
prominent = True
order = 20
variants: dict[str, dict[str, Any]] = {"Full": {}}


class Full(MethodSettings):
    """Train every weight. Best with much data; needs about 16 bytes of memory per parameter in float32."""

    is_adapter: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    rate: ClassVar[float] = 0.1

    type: Literal["full"] = "full"

    @property
    def needs_float32(self) -> bool:
        return True

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from project.modeling.loading import load_base

        return load_base(base, device=device, dtype="float32").train()


Settings = Full
