"""What a method of fine-tuning is. One file in `training/engine/methods/` adds one, without heavy imports at its top.

A method says which weights are trained and how they are kept; how they learn (the loss, the rows) is the recipe's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Union

from pydantic import BaseModel, ConfigDict, Field

from project.contracts.plugins import Plugins

if TYPE_CHECKING:
    import torch

Number = Literal["float32", "bfloat16"]

# Where a result can answer. Every target takes whole models; what takes adapters as they are, each method says.
TARGETS: dict[str, str] = {
    "local": "Tuneloop",
    "vllm": "vLLM",
    "tgi": "TGI",
    "ollama": "Ollama",
    "gguf": "GGUF",
    "hub": "Hub",
}


class MethodSettings(BaseModel):
    """The parameters of a method, and what is true of it with these parameters. Its docstring is shown to people.

    A subclass has the field `type` with the method's name as its only value and default, and `build`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str

    is_adapter: ClassVar[bool] = True  # or is the result a whole model?
    merges: ClassVar[bool] = True  # into a whole model that needs no adapter
    rate: ClassVar[float] = 1.0  # the usual learning rate, as a multiple of LoRA's
    refuses: ClassVar[Mapping[str, str]] = {}  # a recipe's switch that must be off -> why
    later: ClassVar[tuple[str, ...]] = ()  # fields that came after the first release: see `identity`

    def build(self, base: Path, *, device: str, number: Number, total_steps: int) -> Any:
        """The model to train, on `device`, in training mode; what is trained is in float32. Raises UserError.

        `number` is the format of the frozen weights, `total_steps` the length of the run in optimiser steps.
        """
        raise NotImplementedError

    @property
    def virtual_tokens(self) -> int:
        """Positions that stand before every row and take room in the model's context."""
        return 0

    @property
    def needs_float32(self) -> bool:
        """Must the base be held in float32? Then bfloat16 is autocast."""
        return False

    @property
    def quantised_bits(self) -> int | None:
        """Bits of the frozen weights; None: 16 or 32, as the run computes."""
        return None

    @property
    def adapter_targets(self) -> Mapping[str, str]:
        """Targets that take the adapter as it is -> a remark, or ''. Others need it merged."""
        return {"local": "", "hub": "as a PEFT folder"}

    def identity(self) -> dict[str, Any]:
        """What a run depends on. Later fields count only where they differ from their default, so that runs that began
        before there were such fields can be resumed."""
        fields = type(self).model_fields
        values = self.model_dump(mode="json")
        return {
            name: value
            for name, value in values.items()
            if name not in self.later or getattr(self, name) != fields[name].default
        }

    # What happens while it trains. Most methods need none of this.

    def penalty(self, model: Any) -> "torch.Tensor | None":
        """What is added to the loss of each optimiser step, besides the rows' own."""
        return None

    def after_step(self, model: Any, step: int) -> None:
        """Called after optimiser step `step` (from 0), while the gradients are still there."""

    def state(self, model: Any) -> "dict[str, torch.Tensor]":
        """What a resumed run needs besides the trained parameters."""
        return {}

    def restore(self, model: Any, state: "dict[str, torch.Tensor]") -> None:
        """Put back what `state` gave."""

    def export(self, model: Any, folder: Path) -> None:
        """Change the adapter just saved in `folder` into one that anybody can load."""


class Method(Protocol):
    """`prominent` ones are offered first, the others behind "more"; `order` sorts them. `variants` are settings worth
    a name of their own: the page of methods lists them, and the contract test tries each."""

    name: str
    label: str
    prominent: bool
    order: int
    variants: Mapping[str, Mapping[str, Any]]
    Settings: type[MethodSettings]


METHODS: Plugins[Method] = Plugins(
    kind="method",
    group="tuneloop.methods",
    packages=("training.engine.methods",),
    required=("label", "prominent", "order", "variants", "Settings"),
)


def in_order() -> list[Method]:
    """All methods as people are shown them: the prominent ones first."""
    return sorted(METHODS.all(), key=lambda method: (not method.prominent, method.order, method.name))


def any_method() -> Any:
    """The type of a field that takes the settings of any method, told apart by their `type`."""
    return Annotated[Union[tuple(method.Settings for method in in_order())], Field(discriminator="type")]  # noqa: UP007


Where = Literal["model", "adapter", "merged", "no"]


def served(settings: MethodSettings, target: str) -> tuple[Where, str]:
    """How the result of a method gets to a target, with a remark: a whole model, an adapter, merged, or not at all."""
    if not settings.is_adapter:
        return "model", ""
    remarks = settings.adapter_targets
    if target in remarks:
        return "adapter", remarks[target]
    if settings.merges:
        return "merged", ""
    return "no", f"{TARGETS[target]} takes no adapters of this kind, and it can't be merged"
