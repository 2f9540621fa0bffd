"""A fine-tune from its rows to its result, whatever it learns from: what the recipes have in common."""

import math
import time
from typing import TYPE_CHECKING, Any

from project.contracts.runs import RunContext, StopRequested, UserError
from training.engine.settings import TrainParams

if TYPE_CHECKING:
    from project.modeling.loading import Dtype
    from training.engine.components.objectives import Objective
    from training.engine.components.readings import Reading
    from training.engine.components.rows import TokenRows
    from training.engine.components.trainer import Plan, RecipeTrainer


def fine_tune(params: TrainParams, ctx: RunContext, reading: "Reading", objective: "Objective") -> None:
    """Train on the lessons that `reading` makes of the rows towards `objective`, and leave the adapter, or the whole
    model with its tokenizer, in the artifact folder."""
    began = time.monotonic()
    ctx.progress(0, 0, phase="load")
    from transformers import set_seed

    from project.modeling.loading import describe, load_tokenizer
    from training.engine.components.forward import Forward
    from training.engine.components.model import autocast_dtype, number_format
    from training.engine.components.objectives import reference_of
    from training.engine.components.rows import group, split
    from training.engine.components.token_cache import token_rows
    from training.engine.components.trainer import RecipeTrainer

    base, device, method = ctx.input("base"), ctx.spec.device, params.method
    _check(params, describe(base).context, "validation" in ctx.spec.inputs)
    tokenizer = load_tokenizer(base)
    data = token_rows(ctx.input("data"), tokenizer, params.max_seq_length, ctx, reading)
    train, validation = split(data, params.validation_split, params.seed)
    if "validation" in ctx.spec.inputs:
        apart = token_rows(ctx.input("validation"), tokenizer, params.max_seq_length, ctx, reading)
        train, validation = data.rows, apart.rows
    _tell(ctx, params, data, train.lessons, validation.lessons)
    train, validation = objective.arranged(train), objective.arranged(validation)

    ctx.progress(0, 0, phase="load")
    capacity = params.max_seq_length if getattr(params, "packing", False) else None
    groups = group(train, capacity=capacity, seed=params.seed)
    plan = _plan(params, len(groups), data.digest)
    set_seed(params.seed)
    number = number_format(params.precision, device, float32=method.needs_float32)
    held: Dtype = "float32" if method.needs_float32 else number
    model = method.build(base, device=device, number=held, total_steps=plan.total_steps)
    autocast = autocast_dtype(number, device, float32=method.needs_float32)
    forward = Forward.choose(model, [row.ids for row in train[:2]], autocast=autocast)
    ctx.log(f"Computing in {number}: {forward.describe()}.")
    held_out = group(validation, capacity=capacity, seed=params.seed)
    if objective.needs_reference:
        for some in (groups, held_out):
            some.reference = reference_of(some, forward, model, params.batch_size, ctx)
    trainer = RecipeTrainer(
        model,
        tokenizer,
        _arguments(params, plan, ctx),
        train=groups,
        validation=held_out,
        objective=objective,
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
    facts = {"method": method.model_dump(), "precision": number, "rows": train.lessons, "packs": len(groups)}
    ctx.done(
        artifact=True,
        **facts,
        **_data_facts(data, validation.lessons),
        **_run_facts(trainer, model),
        total_seconds=round(time.monotonic() - began, 3),
    )


def _check(params: TrainParams, context: int, has_validation: bool) -> None:
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


def _tell(ctx: RunContext, params: TrainParams, data: "TokenRows", rows: int, validation: int) -> None:
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


def _plan(params: TrainParams, groups: int, data_digest: str) -> "Plan":
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
# Names that differ from those of transformers.
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "lion": "lion_32bit"}
_SCHEDULERS = {"constant": "constant_with_warmup"}


def _schedule(scheduler: str, total_steps: int) -> dict[str, Any]:
    """What a scheduler is told besides the steps."""
    match scheduler:
        case "cosine_with_min_lr":
            return {"min_lr_rate": 0.1}
        case "warmup_stable_decay":
            return {"num_decay_steps": math.ceil(total_steps / 5)}
        case _:
            return {}


def _arguments(params: TrainParams, plan: "Plan", ctx: RunContext) -> Any:
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
        lr_scheduler_type=_SCHEDULERS.get(params.scheduler, params.scheduler),
        lr_scheduler_kwargs=_schedule(params.scheduler, plan.total_steps),
        warmup_steps=math.ceil(params.warmup_ratio * plan.total_steps),
        optim=_OPTIMIZERS.get(params.optimizer, params.optimizer),
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


def _run_facts(trainer: "RecipeTrainer", model: Any) -> dict[str, Any]:
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
