"""Making a training fit: the same work in less memory, and what a person may change after a failure.

Pure functions over parameters that have `batch_size`, `gradient_accumulation_steps`, `gradient_checkpointing`,
`max_seq_length` and `learning_rate`; recipes that train use them. The web process reads this too: no heavy imports.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from annotated_types import Ge
from pydantic import BaseModel

from project.contracts.events import FailureClass
from project.contracts.runs import Remedy

MOST_ACCUMULATION = 4096
SHORTEST = 64  # tokens
P = TypeVar("P", bound=BaseModel)
_MEMORY = (FailureClass.DEVICE_MEMORY, FailureClass.HOST_MEMORY)


def smaller(params: P) -> P | None:
    """The same effective batch in less memory: a part of the micro-batch with more accumulation, at the end recomputed
    activations. None when nothing is left to divide.

    The micro-batch is divided by its smallest divisor, so that 8 becomes 4 and 9 becomes 3; not below what
    `batch_size` may be.
    """
    size, accumulation = params.batch_size, params.gradient_accumulation_steps  # type: ignore[attr-defined]
    least = least_batch(type(params))
    divisor = next((number for number in range(2, size + 1) if size % number == 0 and size // number >= least), None)
    if divisor is not None and accumulation * divisor <= MOST_ACCUMULATION:
        changes = {"batch_size": size // divisor, "gradient_accumulation_steps": accumulation * divisor}
        return params.model_copy(update=changes)
    if not params.gradient_checkpointing:  # type: ignore[attr-defined]
        return params.model_copy(update={"gradient_checkpointing": True})
    return None


def least_batch(params: type[BaseModel]) -> int:
    """The smallest `batch_size` that these parameters allow."""
    limits = params.model_fields["batch_size"].metadata
    return next((int(limit.ge) for limit in limits if isinstance(limit, Ge)), 1)  # type: ignore[call-overload]


def remedies(
    params: BaseModel, failure: FailureClass, field: str, *, lighter: Mapping[str, tuple[str, Any]] | None = None
) -> list[Remedy]:
    """What may help after `failure` at `field`. `lighter` maps a key to (label, method) for lighter methods."""
    found: list[Remedy] = []

    def offer(key: str, label: str, **changes: Any) -> None:
        found.append(Remedy(key, label, params.model_copy(update=changes)))

    if failure in _MEMORY:
        less = smaller(params)
        if less is not None:
            found.append(Remedy("smaller-batch", "Retry with a smaller micro-batch", less))
        length = params.max_seq_length  # type: ignore[attr-defined]
        if length // 2 >= SHORTEST:
            offer("shorter-sequences", f"Retry with at most {length // 2} tokens per row", max_seq_length=length // 2)
        for key, (label, method) in (lighter or {}).items():
            offer(key, label, method=method)
    if field == "learning_rate":
        rate = params.learning_rate / 10  # type: ignore[attr-defined]
        offer("lower-learning-rate", f"Retry with a learning rate of {rate:g}", learning_rate=rate)
    return found
