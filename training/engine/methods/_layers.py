"""What methods share that change the layers of a model."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError


def some(value: Any) -> Any:
    """Raises for an empty list of layers."""
    if not value:
        raise PydanticCustomError("none_named", "must be 'all-linear' or name at least one layer")
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,100}$")]
Names = Annotated[tuple[Name, ...], Field(max_length=100)]
Layers = Annotated[Literal["all-linear"] | Names, AfterValidator(some)]

WHICH = "Layers that are changed: all-linear (best quality), or a list of names such as q_proj, v_proj (less memory)."
RANK = "Rank: how much the adapter can learn. Higher learns more from much data, costs memory and time in proportion."
DROPOUT = (
    "Share of the adapter's inputs dropped at random in training. 0.05 to 0.1 helps against overfitting on small data."
)


def for_peft(layers: str | tuple[str, ...]) -> str | list[str]:
    return layers if isinstance(layers, str) else list(layers)
