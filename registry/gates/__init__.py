"""What decides whether a version may go to production. A gate is a module in this folder with `name`, `label`, `check`.

`check(version) -> Verdict` reads stored outcomes only; what it misses is a refusal that names the command to run.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from project.contracts.plugins import Plugins

if TYPE_CHECKING:
    from registry.models import ModelVersion


@dataclass(frozen=True)
class Verdict:
    """What one gate says. `said` is a sentence for people, and when it refuses, what to do."""

    gate: str
    passed: bool
    said: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Gate(Protocol):
    name: str
    label: str

    def check(self, version: "ModelVersion") -> Verdict: ...


GATES: Plugins[Gate] = Plugins(
    kind="gate", group="tuneloop.gates", packages=("registry.gates",), required=("label", "check")
)


def examine(version: "ModelVersion") -> list[Verdict]:
    """Ask every gate."""
    return [gate.check(version) for gate in GATES.all()]


def refusals(verdicts: Sequence[Verdict]) -> str:
    """Why not, in one text; empty when every gate lets it pass."""
    return " ".join(verdict.said for verdict in verdicts if not verdict.passed)
