"""What methods share that put learned positions before every row."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from training.engine.methods_registry import MethodSettings

NO_PACKING = "rows of a pack would share the learned positions; unpacked batches have no padding either"
HOW_MANY = (
    "Learned positions before every row. More can say more and cost time at every row and room in the context: 8 for a "
    "format, 20 to 100 for a task."
)
TARGETS: Mapping[str, str] = {"local": "", "hub": "as a PEFT folder"}  # vLLM has removed prompt adapters (vllm#20588)


class LearnedPositions(MethodSettings):
    """A method whose result stands before every row and can't be merged into the weights."""

    merges: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {"packing": NO_PACKING}

    num_virtual_tokens: int = Field(20, ge=1, le=1024, description=HOW_MANY)

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    @property
    def adapter_targets(self) -> Mapping[str, str]:
        return TARGETS
