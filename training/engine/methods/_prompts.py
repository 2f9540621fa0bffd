"""What methods share that put learned positions before every row."""

from collections.abc import Mapping

from pydantic import Field

NO_PACKING = "rows of a pack would share the learned positions; unpacked batches have no padding either"
HOW_MANY = (
    "Learned positions before every row. More can say more and cost time at every row and room in the context: 8 for a "
    "format, 20 to 100 for a task."
)
TARGETS: Mapping[str, str] = {"local": "", "hub": "as a PEFT folder"}  # vLLM has removed prompt adapters (vllm#20588)


def how_many() -> int:
    count: int = Field(20, ge=1, le=1024, description=HOW_MANY)
    return count
