"""TRL's SFTTrainer over token ids, with this engine's loss, validation, checkpoints, events and manners."""

import math
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from project.contracts.runs import RunContext, StopRequested, UserError
from project.modeling import checkpoints
from training.engine.components.forward import Forward
from training.engine.components.ledger import Ledger
from training.engine.components.objectives import Objective
from training.engine.components.rows import Groups, collate
from training.engine.components.saving import all_finite, link_tree, load_weights, save_state, save_weights
from training.engine.methods_registry import MethodSettings


@dataclass(frozen=True)
class Plan:
    """When a run does what, all in optimiser steps. `evaluate_every` and `checkpoint_every` None means each epoch."""

    total_steps: int
    steps_per_epoch: int
    evaluate_every: int | None
    checkpoint_every: int | None
    logging_steps: int
    patience: int | None
    keep_best: bool
    keep_checkpoints: int
    data_digest: str
    config_digest: str
    versions: dict[str, str]

    def is_due(self, every: int | None, step: int) -> bool:
        return step == self.total_steps or step % (every or self.steps_per_epoch) == 0


class RecipeTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """Trains on groups of rows (`rows.group`), says what happens through `ctx`, and can be stopped and resumed exactly.

    `train` returns after the last step, after an early stop, or after the step in which a stop was requested, with a
    checkpoint in the last case. It raises UserError if the loss or a weight stops being a number.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        arguments: SFTConfig,
        *,
        train: Groups,
        validation: Groups,
        forward: Forward,
        objective: Objective,
        method: MethodSettings,
        plan: Plan,
        ctx: RunContext,
    ) -> None:
        self.plan, self.ledger = plan, Ledger()
        self._forward, self._objective, self.method, self._ctx = forward, objective, method, ctx
        self._figures: dict[str, torch.Tensor] = {}  # sums of the next line of metrics, over so many items
        self._items = 0
        self._validation = validation
        self._tokens, self._since = 0, time.monotonic()  # of the next line of metrics
        self._last_metrics: dict[str, float] = {}
        self._validated: tuple[int, float] | None = None  # the step and loss of the newest validation
        super().__init__(
            model,
            arguments,
            data_collator=lambda some: collate([train[one["input_ids"]] for one in some]),
            train_dataset=Dataset.from_dict({"input_ids": range(len(train))}),  # their numbers: no second copy of them
            processing_class=tokenizer,
            callbacks=[_Flow(self)],
        )
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # TRL makes adapters of quantised models bfloat16, which rounds updates away
                parameter.data = parameter.data.float()
        for noisy in (ProgressCallback, PrinterCallback):
            self.remove_callback(noisy)
        # compute_loss divides by the learned tokens of the whole optimiser step, over all its micro-batches.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    @property
    def best_weights(self) -> Path:
        return self._ctx.folder / "tmp" / "best"

    @property
    def epoch(self) -> float:
        """Epochs done, from the step alone: the same after a resumption."""
        return round(int(self.state.global_step) / self.plan.steps_per_epoch, 4)

    @property
    def conditions(self) -> dict[str, str | int]:
        """What besides settings, data and library versions decides the last digits of every number."""
        device = self.args.device
        return {
            "device": "the CPU" if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(),
            "batch_size": int(self.args.per_device_train_batch_size),
            "gradient_checkpointing": "on" if self.args.activation_checkpointing else "off",
        }

    @property
    def interrupted(self) -> bool:
        """Whether training ended because of a stop request, before its time."""
        return self.state.global_step < self.plan.total_steps and not self.ledger.stopped_early

    def fit(self) -> None:
        """Train from the start, or from `ctx.spec.resume_from`. Raises UserError for a checkpoint that does not fit."""
        shutil.rmtree(self.best_weights, ignore_errors=True)
        if self._ctx.spec.resume_from is None:
            self.train()
            return
        checkpoint = Path(self._ctx.spec.resume_from)
        manifest = self._verified(checkpoint)
        self.ledger = Ledger.load(checkpoint)
        if (checkpoint / "best").is_dir():
            shutil.copytree(checkpoint / "best", self.best_weights)
        changed = checkpoints.differences(manifest, versions=self.plan.versions, conditions=self.conditions)
        self._ctx.resumed(manifest.step, changed)
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = manifest.step
        if self.ledger.evaluation_due:
            self.evaluate()
            if self.ledger.evaluation_due:
                raise StopRequested  # again; the checkpoint it came from is still the newest
        if self.interrupted:
            self.train(resume_from_checkpoint=str(checkpoint))

    def save_result(self, folder: Path) -> None:
        """Write the weights that the run is for: the last, or the best if those are kept."""
        if not all_finite(self.model):
            raise _not_a_number(self.state.global_step, self.args.learning_rate)
        if self.plan.keep_best and self.best_weights.is_dir():
            shutil.copytree(self.best_weights, folder, dirs_exist_ok=True)
        else:
            save_weights(self.model, folder, self.method)

    def _verified(self, checkpoint: Path) -> checkpoints.Manifest:
        manifest, found = checkpoints.read(checkpoint), checkpoints.problems(checkpoint)
        if manifest is None or found:
            raise UserError(f"The checkpoint can't be used: {'; '.join(found)}.", hint="Resume from an earlier one.")
        for what, mine, theirs in (
            ("data", self.plan.data_digest, manifest.data_digest),
            ("settings", self.plan.config_digest, manifest.config_digest),
        ):
            if mine != theirs:
                raise UserError(
                    f"The checkpoint belongs to a run with other {what}, so the run can't be resumed from it.",
                    hint="Start a new run, or give it the data and settings of the old one.",
                )
        return manifest

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        tokens, learned = inputs["input_ids"].shape[1], len(inputs["targets"])
        self.ledger.tokens += tokens
        self.ledger.learned += learned
        self._tokens += tokens
        summed, figures = self._objective.loss(self._forward, model, inputs)
        items = self._objective.items(inputs)
        self._items += items
        for name, value in figures.items():
            self._figures[name] = self._figures[name] + value if name in self._figures else value
        loss = summed / max(num_items_in_batch or items, 1)
        if (penalty := self.method.penalty(self.model)) is not None:  # felt, not reported: the loss is that of the rows
            loss = loss + (penalty - penalty.detach()) * (items / max(num_items_in_batch or items, 1))
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> int:
        return sum(self._objective.items(batch) for batch in batch_samples)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report one line of training metrics. The loss is the mean since the last line."""
        self.control.should_log = False
        if "loss" not in logs:  # the trainer's own summary at the end, which knows nothing of earlier attempts
            return
        step, ledger = self.state.global_step, self.ledger
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
            raise _not_a_number(step, self.args.learning_rate)
        seconds, steps = time.monotonic() - self._since, step - ledger.logged_step
        ledger.seconds += seconds
        ledger.loss_sum += logs["loss"] * steps
        ledger.loss_steps += steps
        ledger.logged_step = step
        self._last_metrics = {
            **{name: logs[name] for name in ("loss", "grad_norm", "learning_rate") if name in logs},
            **self._told({name: float(value) for name, value in self._figures.items()}, self._items),
            "epoch": self.epoch,
            "tokens_per_second": self._tokens / max(seconds, 1e-9),
        }
        self._ctx.metrics(step, **self._last_metrics)
        self._figures, self._items = {}, 0
        self.start_clock()

    def _told(self, sums: dict[str, float], items: int) -> dict[str, float]:
        return self._objective.told({name: value / items for name, value in sums.items()}) if sums and items else {}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss and figures per item of the validation rows. A stop request leaves it for the resumed run."""
        step, size = self.state.global_step, self.args.per_device_train_batch_size
        total, items = 0.0, 0
        sums: dict[str, float] = {}
        self._ctx.progress(step, self.plan.total_steps, phase="validate", epoch=self.epoch)
        self.control.should_evaluate = False
        self.model.eval()
        self.ledger.evaluation_due = True
        with torch.no_grad(), self._off_the_clock():
            for start in range(0, len(self._validation), size):
                if self._ctx.stop_requested:
                    self.stop()
                    return {}
                batch = self._prepare_inputs(collate(self._validation[start : start + size]))
                summed, figures = self._objective.loss(self._forward, self.model, batch)
                total += float(summed)
                items += self._objective.items(batch)
                for name, value in figures.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        self.model.train()
        self.ledger.evaluation_due = False
        told = self._told(sums, items)
        self._judge(step, total / max(items, 1), {f"eval_{name}": value for name, value in told.items()})
        return {"eval_loss": total / max(items, 1)}

    def stop(self) -> None:
        """End training after this step, with a checkpoint."""
        self.control.should_save = True
        self.control.should_training_stop = True

    def _judge(self, step: int, eval_loss: float, figures: dict[str, float]) -> None:
        plan, ledger = self.plan, self.ledger
        if not math.isfinite(eval_loss):
            raise _not_a_number(step, self.args.learning_rate)
        self._ctx.metrics(step, eval_loss=eval_loss, **figures, epoch=self.epoch)
        self._validated = (step, eval_loss)
        if ledger.judge(step, eval_loss) and plan.keep_best:
            shutil.rmtree(self.best_weights, ignore_errors=True)
            save_weights(self.model, self.best_weights, self.method)
        if plan.patience is not None and ledger.evaluations_without_gain >= plan.patience:
            ledger.stopped_early = True
            self.control.should_training_stop = True
            self._ctx.log(
                f"Stopped early at step {step}: the validation loss has not improved in {plan.patience} evaluations "
                f"(best {ledger.best_loss:.4f} at step {ledger.best_step})."
            )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        save_weights(self.model, folder, self.method)
        save_state(self.model, folder, self.method)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # not PEFT's way, which takes `best` for another adapter
        load_weights(self.model, Path(resume_from_checkpoint), self.method)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Build a checkpoint beside the others, then commit it. One with broken weights is never committed."""
        step, plan = self.state.global_step, self.plan
        if not all_finite(self.model):
            raise _not_a_number(step, self.args.learning_rate)
        self.ledger.unlogged_loss = float(self._tr_loss)
        self.ledger.unlogged_figures = {name: float(value) for name, value in self._figures.items()}
        self.ledger.unlogged_items = self._items
        measured = {"eval_loss": self._validated[1]} if self._validated and self._validated[0] == step else {}
        metrics = {**self._last_metrics, **measured}
        with self._off_the_clock():
            Trainer._save_checkpoint(self, model, trial)  # not TRL's, which adds a model card
            built = Path(self.args.output_dir) / f"checkpoint-{step}"
            self.ledger.save(built)
            if self.best_weights.is_dir():
                link_tree(self.best_weights, built / "best")
            path = checkpoints.commit(
                built,
                self._ctx.checkpoints,
                step=step,
                data_digest=plan.data_digest,
                config_digest=plan.config_digest,
                versions=plan.versions,
                conditions=self.conditions,
                metrics=metrics,
            )
            self._ctx.checkpoint(step, path, metrics)
            checkpoints.prune(self._ctx.checkpoints, keep=plan.keep_checkpoints)

    def start_clock(self) -> None:
        """Begin to count tokens and seconds anew."""
        self._tokens, self._since = 0, time.monotonic()

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """Time that is not training, and not in its tokens per second."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def restore_unlogged_loss(self) -> None:
        """Take over the losses of steps that a resumed run had done and not yet reported."""
        self._tr_loss += self.ledger.unlogged_loss
        sums = self.ledger.unlogged_figures.items()
        self._figures = {name: torch.tensor(value, device=self.args.device) for name, value in sums}
        self._items = self.ledger.unlogged_items
        self._globalstep_last_logged = self.ledger.logged_step


class _Flow(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Decides after every step what follows. The trainer's own strategies, which act at interruptions too, are off."""

    def __init__(self, trainer: RecipeTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.restore_unlogged_loss()
        self._trainer.start_clock()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.method.after_step(self._trainer.model, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer, plan, step = self._trainer, self._trainer.plan, state.global_step
        trainer._ctx.progress(step, plan.total_steps, phase="train", epoch=trainer.epoch)
        control.should_evaluate = bool(trainer._validation) and plan.is_due(plan.evaluate_every, step)
        control.should_save = plan.is_due(plan.checkpoint_every, step)
        if trainer._ctx.stop_requested and step < plan.total_steps:
            trainer.stop()
        control.should_log = step % plan.logging_steps == 0 or step == plan.total_steps


def _not_a_number(step: int, learning_rate: float) -> UserError:
    return UserError(
        f"The training broke down at step {step}: the loss or a weight is no longer a number.",
        hint=f"Lower the learning rate (now {learning_rate:g}), add warm-up or clip gradients (max_grad_norm). "
        "The last checkpoint is from before it happened.",
        field="learning_rate",
    )


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a run computes."""
    from importlib.metadata import version

    names: Iterable[str] = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
    return {name: version(name) for name in names}
