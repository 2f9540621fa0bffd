"""IA3 (https://arxiv.org/abs/2205.05638)."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from training.engine.methods._layers import Name
from training.engine.methods_registry import MethodSettings, Number

name = "ia3"
label = "IA3: a few scales, hardly any memory"
prominent = True
order = 30
variants: dict[str, dict[str, Any]] = {"IA3": {}}

_FEEDFORWARD = ("down_proj", "fc2", "fc_out", "dense_4h_to_h", "c_proj", "w2", "wo")


class Ia3(MethodSettings):
    """Learn one factor per channel of keys, values and feed-forward layers: the smallest adapter there is, fast, for a
    tone or a format rather than for new knowledge."""

    rate: ClassVar[float] = 15.0

    type: Literal["ia3"] = "ia3"
    target_modules: Literal["auto"] | Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)] = Field(
        "auto",
        description="Layers that are scaled: auto takes keys, values and feed-forward layers of known architectures; "
        "or a list of names.",
    )

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        from peft import IA3Config, TaskType

        from training.engine.components.model import adapted

        named = None if self.target_modules == "auto" else list(self.target_modules)
        config = IA3Config(
            target_modules=named,
            feedforward_modules=named and [one for one in named if one.rpartition(".")[2] in _FEEDFORWARD],
            task_type=TaskType.CAUSAL_LM,
        )
        return adapted(base, config, device=device, number=number)


Settings = Ia3
