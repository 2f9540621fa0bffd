"""Supervised fine-tuning: learn the answers of conversations, with any of the methods (`training.engine.methods`).

Trained with TRL's SFTTrainer and PEFT on ids from `project.modeling.render`.
"""

import math
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from project.contracts.events import FailureClass
from project.contracts.rows import RowKind
from project.contracts.runs import Remedy, RunContext, StopRequested, UserError
from training.engine import fitting
from training.engine.methods.full import Full
from training.engine.methods.lora import Lora
from training.engine.methods_registry import MethodSettings, any_method

if TYPE_CHECKING:
    from project.modeling.loading import Dtype
    from training.engine.components.rows import TokenRows
    from training.engine.components.trainer import Plan, SupervisedTrainer

    AnyMethod = MethodSettings
else:
    AnyMethod = any_method()

name = "sft"
label = "Supervised fine-tuning"
eats = (RowKind.CHAT, RowKind.COMPLETION)
needs: Literal["device"] = "device"
preload = (
    *("training.engine.components.forward", "training.engine.components.model", "training.engine.components.trainer"),
    *("project.modeling.data", "peft.tuners.lora.bnb", "torch.utils.serialization"),
    *("transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2"),
)
resumable = True  # an interrupted run goes on from its checkpoint to the same weights, bit for bit
charts = (("Loss", "loss,eval_loss", "Training,Held out"), ("Learning rate", "learning_rate", "Learning rate"))


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EarlyStopping(_Settings):
    enabled: bool = Field(False, description="Stop when the validation loss no longer improves. Needs validation rows.")
    patience: int = Field(2, ge=1, le=1000, description="How many evaluations without improvement to wait for.")
    metric: Literal["eval_loss"] = Field("eval_loss", description="What must improve.")


class SftParams(_Settings):
    """Everything a run depends on besides its inputs `base`, `data` and, instead of a split, `validation`."""

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
    packing: bool = Field(
        False,
        description="Fill packs of max_seq_length tokens with whole rows, so that every step has "
        "equal work. Rows never see each other. batch_size then counts packs.",
    )
    optimizer: Literal["adamw", "adafactor", "sgd"] = Field(
        "adamw", description="adamw is the safe choice; adafactor takes less memory in full fine-tuning; sgd the least."
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
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

    @field_validator("packing", "gradient_checkpointing")
    @classmethod
    def _suits_the_method(cls, wanted: bool, info: ValidationInfo) -> bool:
        method = info.data.get("method")  # absent if it is wrong itself
        if wanted and method is not None and (why := method.refuses.get(info.field_name)):
            raise PydanticCustomError(
                "conflict", "can't be combined with {method}: {why}", {"method": method.type, "why": why}
            )
        return wanted


Params = SftParams


def smaller(params: SftParams) -> SftParams | None:
    """The same run in less memory, or None. Nothing is switched on that the method can't do."""
    less = fitting.smaller(params)
    return less if less is not None and _is_possible(less) else None


def _is_possible(params: SftParams) -> bool:
    return not any(getattr(params, switch) for switch in params.method.refuses)


def remedies(params: SftParams, failure: FailureClass, field: str) -> list[Remedy]:
    """What may help after a failure; with all weights in training, LoRA is the lighter method."""
    lighter = {"lora": ("Retry with LoRA", Lora())} if isinstance(params.method, Full) else {}
    found = fitting.remedies(params, failure, field, lighter=lighter)
    return [remedy for remedy in found if isinstance(remedy.params, SftParams) and _is_possible(remedy.params)]


def disk_bytes(params: SftParams, inputs: dict[str, int]) -> int:
    """Checkpoints on disk at once: one being built, those that are kept, the best one. Each holds the trained weights
    in float32 and two moments of them; the result comes on top. An adapter is small beside its base.
    """
    weights = 2 * inputs.get("base", 0)  # bases are stored in 16 bits
    trained = weights // 20 if params.method.is_adapter else weights
    return trained * 3 * (params.keep_checkpoints + 2) + trained * (2 if params.save_best_model else 1)


def run(params: SftParams, ctx: RunContext) -> None:
    """Train, and leave the adapter, or the whole model with its tokenizer, in the artifact folder."""
    began = time.monotonic()
    ctx.progress(0, 0, phase="load")
    from transformers import set_seed

    from project.modeling.loading import describe, load_tokenizer
    from training.engine.components.forward import Forward
    from training.engine.components.model import autocast_dtype, number_format
    from training.engine.components.rows import group, split
    from training.engine.components.token_cache import token_rows
    from training.engine.components.trainer import SupervisedTrainer

    base, device, method = ctx.input("base"), ctx.spec.device, params.method
    _check(params, describe(base).context, "validation" in ctx.spec.inputs)
    tokenizer = load_tokenizer(base)
    data = token_rows(ctx.input("data"), tokenizer, params.max_seq_length, ctx)
    train, validation = split(data, params.validation_split, params.seed)
    if "validation" in ctx.spec.inputs:
        held_out = token_rows(ctx.input("validation"), tokenizer, params.max_seq_length, ctx)
        train, validation = data.rows, held_out.rows
    _tell(ctx, params, data, len(train), len(validation))

    ctx.progress(0, 0, phase="load")
    capacity = params.max_seq_length if params.packing else None
    groups = group(train, capacity=capacity, seed=params.seed)
    plan = _plan(params, len(groups), data.digest)
    set_seed(params.seed)
    number = number_format(params.precision, device, float32=method.needs_float32)
    held: Dtype = "float32" if method.needs_float32 else number
    model = method.build(base, device=device, number=held, total_steps=plan.total_steps)
    autocast = autocast_dtype(number, device, float32=method.needs_float32)
    forward = Forward.choose(model, [row.ids for row in train[:2]], autocast=autocast)
    ctx.log(f"Computing in {number}: {forward.describe()}.")
    trainer = SupervisedTrainer(
        model,
        tokenizer,
        _arguments(params, plan, ctx),
        train=groups,
        validation=group(validation, capacity=capacity, seed=params.seed),
        forward=forward,
        method=method,
        plan=plan,
        ctx=ctx,
    )
    trainer.fit()
    if trainer.interrupted:
        raise StopRequested

    ctx.progress(trainer.state.global_step, plan.total_steps, phase="save")
    trainer.save_result(ctx.artifact)
    if not method.is_adapter:
        tokenizer.save_pretrained(str(ctx.artifact))
    facts = {"method": method.model_dump(), "precision": number, "rows": len(train), "packs": len(groups)}
    ctx.done(
        artifact=True,
        **facts,
        **_data_facts(data, len(validation)),
        **_run_facts(trainer, model),
        total_seconds=round(time.monotonic() - began, 3),
    )


def _check(params: SftParams, context: int, has_validation: bool) -> None:
    if context and params.max_seq_length > context:
        raise UserError(
            f"max_seq_length is {params.max_seq_length}, but the model's context has {context} tokens.",
            hint=f"Choose at most {context}.",
            field="max_seq_length",
        )
    virtual = params.method.virtual_tokens
    if context and params.max_seq_length + virtual > context:
        raise UserError(
            f"max_seq_length {params.max_seq_length} and {virtual} learned positions are more than the model's context "
            f"of {context} tokens.",
            hint=f"Choose at most {context - virtual}." if virtual < context else "Choose fewer learned positions.",
            field="max_seq_length",
        )
    if has_validation or params.validation_split:
        return
    for wanted, field in (
        (params.early_stopping.enabled, "early_stopping"),
        (params.save_best_model, "save_best_model"),
    ):
        if wanted:
            raise UserError(
                f"{field} needs validation rows.", hint="Set validation_split, for example to 0.1.", field=field
            )


def _tell(ctx: RunContext, params: SftParams, data: "TokenRows", rows: int, validation: int) -> None:
    """Say what became of the rows. Raises UserError if nothing is left to learn."""
    if not data.rows:
        raise UserError(
            f"None of the {data.read} rows has anything to learn." if data.read else "The data set has no rows.",
            hint="Rows need an assistant's turn (without weight 0) that starts within max_seq_length.",
            field="max_seq_length" if data.truncated else "data",
        )
    if not rows:
        raise UserError(
            "Every row that has something to learn is held back for validation.",
            hint="Set a smaller validation_split, or add rows.",
            field="validation_split",
        )
    ctx.log(
        f"{rows} rows to learn from, {validation} to validate; {data.tokens} tokens, {data.learned} of them learned."
    )
    if data.truncated:
        ctx.log(
            f"{data.truncated} rows are longer than max_seq_length {params.max_seq_length} and were cut; "
            f"{data.dropped_tokens} tokens are lost.",
            level="warning",
        )
    if data.unlearnable:
        ctx.log(f"{data.unlearnable} rows have nothing to learn and were left out.", level="warning")


def _plan(params: SftParams, groups: int, data_digest: str) -> "Plan":
    from project.modeling.checkpoints import digest_of
    from training.engine.components.trainer import Plan, versions

    per_epoch = math.ceil(math.ceil(groups / params.batch_size) / params.gradient_accumulation_steps)
    # Out of memory is healed by a smaller batch and more accumulation (`fitting.smaller`): such a run may resume.
    learned = params.model_dump(mode="json", exclude={*_CADENCE, *_MEMORY})
    learned["method"] = params.method.identity()
    learned["effective_batch"] = params.batch_size * params.gradient_accumulation_steps
    return Plan(
        total_steps=params.max_steps or math.ceil(params.epochs * per_epoch),
        steps_per_epoch=per_epoch,
        evaluate_every=None if params.evaluate_every == "epoch" else params.evaluate_every,
        checkpoint_every=None if params.checkpoint_every == "epoch" else params.checkpoint_every,
        logging_steps=params.logging_steps,
        patience=params.early_stopping.patience if params.early_stopping.enabled else None,
        keep_best=params.save_best_model,
        keep_checkpoints=params.keep_checkpoints,
        data_digest=data_digest,
        config_digest=digest_of(learned),
        versions=versions(),
    )


_CADENCE = {"checkpoint_every", "keep_checkpoints", "logging_steps"}  # may differ between a run and its resumption
_MEMORY = {"batch_size", "gradient_accumulation_steps", "gradient_checkpointing"}  # what `fitting.smaller` changes
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "sgd": "sgd"}
_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def _arguments(params: SftParams, plan: "Plan", ctx: RunContext) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(ctx.folder / "tmp" / "trainer"),
        use_cpu=ctx.spec.device == "cpu",
        bf16=False,  # TRL's default is a GPU's; number formats are settled in components.model
        activation_checkpointing=params.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        max_steps=plan.total_steps,
        learning_rate=params.learning_rate,
        lr_scheduler_type=_SCHEDULERS[params.scheduler],
        warmup_steps=math.ceil(params.warmup_ratio * plan.total_steps),
        optim=_OPTIMIZERS[params.optimizer],
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        seed=params.seed,
        eval_strategy="no",  # the trainer's own flow decides (components.trainer)
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )


def _data_facts(data: "TokenRows", validation: int) -> dict[str, Any]:
    return {
        "validation_rows": validation,
        "truncated_rows": data.truncated,
        "truncated_tokens": data.dropped_tokens,
        "unlearnable_rows": data.unlearnable,
        "data_digest": data.digest,
    }


def _run_facts(trainer: "SupervisedTrainer", model: Any) -> dict[str, Any]:
    ledger = trainer.ledger
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.epoch,
        "tokens_seen": ledger.tokens,
        "supervised_tokens": ledger.learned,
        "train_loss": ledger.train_loss,
        "eval_loss": ledger.best_loss if trainer.plan.keep_best else ledger.eval_loss,
        "best_step": ledger.best_step,
        "stopped_early": ledger.stopped_early,
        "seconds": round(ledger.seconds, 3),
        "tokens_per_second": round(ledger.tokens / max(ledger.seconds, 1e-9), 1),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": trainer.plan.versions,
    }
