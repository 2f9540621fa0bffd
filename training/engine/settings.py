"""What all recipes that train a model can be told, and what follows from it. No heavy imports: forms read it too."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from project.contracts.events import FailureClass
from project.contracts.runs import Remedy
from training.engine import fitting
from training.engine.methods.full import Full
from training.engine.methods.lora import Lora
from training.engine.methods_registry import MethodSettings, any_method

if TYPE_CHECKING:
    AnyMethod = MethodSettings
else:
    AnyMethod = any_method()

Optimizer = Literal[
    "adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion", "lion_8bit", "ademamix", "sgd"
]  # fmt: skip
Scheduler = Literal[
    "cosine", "linear", "constant", "cosine_with_min_lr", "polynomial", "inverse_sqrt", "warmup_stable_decay"
]  # fmt: skip
# What a process that starts such runs imports in advance.
PRELOAD = (
    *("training.engine.components.forward", "training.engine.components.model", "training.engine.components.trainer"),
    *("project.modeling.data", "peft.tuners.lora.bnb", "torch.utils.serialization"),
    *("transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2"),
)
CHARTS = (("Loss", "loss,eval_loss", "Training,Held out"), ("Learning rate", "learning_rate", "Learning rate"))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EarlyStopping(_Section):
    enabled: bool = Field(False, description="Stop when the validation loss no longer improves. Needs validation rows.")
    patience: int = Field(2, ge=1, le=1000, description="How many evaluations without improvement to wait for.")
    metric: Literal["eval_loss"] = Field("eval_loss", description="What must improve.")


class TrainParams(_Section):
    """What every recipe that trains a model depends on besides its inputs `base`, `data` and, instead of a split,
    `validation`. A recipe adds its own."""

    method: AnyMethod = Field(Lora(), description="What is trained, and how it is kept.")
    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Step size. LoRA likes 1e-4 to 2e-3, full fine-tuning 1e-5 "
        "to 5e-5, learned prompts 1e-2. Too high and the loss jumps or breaks down, too low and little is learned.",
    )
    batch_size: int = Field(
        8,
        ge=1,
        le=4096,
        description="Rows (or packs) in memory at once. More is faster on a GPU and takes memory in proportion.",
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=4096, description="Batches per step of the optimiser: a larger effective batch without more memory."
    )
    epochs: float = Field(
        3.0, gt=0, le=1000, description="How often every row is seen. Small data sets like 2 to 5; more overfits."
    )
    max_steps: int | None = Field(None, ge=1, le=100_000_000, description="Steps of the optimiser; replaces epochs.")
    warmup_ratio: float = Field(
        0.03, ge=0, le=1, description="Share of the steps in which the learning rate rises from 0. Steadies the start."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Pulls weights towards 0, against overfitting.")
    max_grad_norm: float = Field(
        1.0, ge=0, le=1e6, description="Longer gradients are cut to this length, against jumps. 0 switches it off."
    )
    max_seq_length: int = Field(
        512,
        ge=8,
        le=1_048_576,
        description="Tokens per row (or pack); longer rows are cut, which is counted. Memory grows with it.",
    )
    optimizer: Optimizer = Field(
        "adamw",
        description="adamw is the safe choice. In full fine-tuning adamw_8bit takes a quarter of its memory, paged "
        "lends from the host when a GPU is full, adafactor and sgd take less still. lion likes a third to a tenth of "
        "the learning rate; ademamix remembers older gradients, for long runs.",
    )
    scheduler: Scheduler = Field(
        "cosine",
        description="How the learning rate falls after the warm-up: to 0 (cosine, linear, polynomial), to a tenth "
        "(cosine_with_min_lr), slowly (inverse_sqrt), in the last fifth only (warmup_stable_decay), or not at all "
        "(constant).",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Number format. auto is bf16 where the hardware "
        "multiplies it, else fp32. Trained weights are always fp32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice: a third slower, far less memory for long rows."
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        description="Of the split, the order of rows and new weights. The same seed "
        "on the same machine gives the same model.",
    )
    validation_split: float = Field(0.0, ge=0, le=0.5, description="Share of the rows held back to measure eval_loss.")
    evaluate_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="When to measure the validation loss: epoch, or a number of steps."
    )
    checkpoint_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="When to save a checkpoint to resume from: epoch, or a number of steps."
    )
    keep_checkpoints: int = Field(
        2, ge=1, le=100, description="How many of the newest checkpoints are kept, beside the best one."
    )
    logging_steps: int = Field(1, ge=1, le=10_000, description="Steps per point of the loss chart.")
    early_stopping: EarlyStopping = Field(EarlyStopping(), description="When to end before the last epoch.")
    save_best_model: bool = Field(
        False, description="Keep the weights of the lowest validation loss instead of the last."
    )

    @field_validator("packing", "gradient_checkpointing", check_fields=False)
    @classmethod
    def _suits_the_method(cls, wanted: bool, info: ValidationInfo) -> bool:
        method = info.data.get("method")  # absent if it is wrong itself
        if wanted and method is not None and (why := method.refuses.get(info.field_name)):
            raise PydanticCustomError(
                "conflict", "can't be combined with {method}: {why}", {"method": method.type, "why": why}
            )
        return wanted


class PackedParams(TrainParams):
    """Of recipes whose rows are learned one by one, so that several fit into a pack."""

    packing: bool = Field(
        False,
        description="Fill packs of max_seq_length tokens with whole rows, so that every step has "
        "equal work. Rows never see each other. batch_size then counts packs.",
    )


P = TypeVar("P", bound=TrainParams)


def smaller(params: P) -> P | None:
    """The same run in less memory, or None. Nothing is switched on that the method can't do."""
    less = fitting.smaller(params)
    return less if less is not None and _is_possible(less) else None


def _is_possible(params: TrainParams) -> bool:
    return not any(getattr(params, switch, False) for switch in params.method.refuses)


def remedies(params: TrainParams, failure: FailureClass, field: str) -> list[Remedy]:
    """What may help after a failure; with all weights in training, LoRA is the lighter method."""
    lighter = {"lora": ("Retry with LoRA", Lora())} if isinstance(params.method, Full) else {}
    found = fitting.remedies(params, failure, field, lighter=lighter)
    return [remedy for remedy in found if isinstance(remedy.params, TrainParams) and _is_possible(remedy.params)]


def disk_bytes(params: TrainParams, inputs: dict[str, int]) -> int:
    """Checkpoints on disk at once: one being built, those that are kept, the best one. Each holds the trained weights
    in float32 and two moments of them; the result comes on top. An adapter is small beside its base.
    """
    weights = 2 * inputs.get("base", 0)  # bases are stored in 16 bits
    trained = weights // 20 if params.method.is_adapter else weights
    return trained * 3 * (params.keep_checkpoints + 2) + trained * (2 if params.save_best_model else 1)
