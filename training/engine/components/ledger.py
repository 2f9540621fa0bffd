"""What a run has counted so far. It travels in every checkpoint, so that a resumed run goes on counting."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

FILE = "ledger.json"


@dataclass
class Ledger:
    """Tokens are real ones (there is no padding); losses are in nats per learned token; times in seconds."""

    tokens: int = 0
    learned: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    unlogged_loss: float = 0.0  # sum over the steps after `logged_step`
    unlogged_figures: dict[str, float] = field(default_factory=dict)  # sums over `unlogged_items`
    unlogged_items: int = 0
    logged_step: int = 0
    eval_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    evaluation_due: bool = False

    @property
    def train_loss(self) -> float | None:
        """Mean over all steps."""
        return self.loss_sum / self.loss_steps if self.loss_steps else None

    def judge(self, step: int, eval_loss: float) -> bool:
        """Note a validation loss. True if it is the best so far."""
        self.eval_loss = eval_loss
        if self.best_loss is not None and eval_loss >= self.best_loss:
            self.evaluations_without_gain += 1
            return False
        self.best_loss, self.best_step, self.evaluations_without_gain = eval_loss, step, 0
        return True

    def save(self, folder: Path) -> None:
        (folder / FILE).write_bytes(_LEDGER.dump_json(self))

    @classmethod
    def load(cls, folder: Path) -> "Ledger":
        return _LEDGER.validate_json((folder / FILE).read_bytes())

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


_LEDGER: TypeAdapter[Ledger] = TypeAdapter(Ledger)
