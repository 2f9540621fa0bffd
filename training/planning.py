"""From a job file to everything a run needs. Looks at all of it first, so that people hear every mistake at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from django.conf import settings
from pydantic import BaseModel

from datasets_app.actions import blocks, datasets
from datasets_app.models import DatasetVersion
from project.contracts.plugins import UnknownPlugin
from project.contracts.rows import RowKind
from project.contracts.runs import RECIPES, Recipe
from project.kernel import access
from project.kernel.access import Actor
from project.kernel.errors import Forbidden, Invalid, NotReady, Problem
from project.kernel.models import Artifact, Workspace
from project.kernel.references import check_name
from registry.actions.references import resolve
from registry.models import ModelVersion
from training.complaints import Complaints
from training.engine import fitting
from training.engine.metrics_registry import METRICS
from training.engine.recipes import evaluate, sft
from training.engine.settings import TrainParams
from training.jobfile import Defaults, JobFile, recipe_params, settle, with_objective

T = TypeVar("T")
CONVERSATIONS = (RowKind.CHAT, RowKind.PREFERENCE, RowKind.UNPAIRED)  # what only a chat template can write


@dataclass(frozen=True)
class Plan:
    """What a fine-tune will be made from. `config` is complete and names versions by their ids."""

    config: JobFile
    recipe: Recipe
    params: BaseModel
    base: ModelVersion
    data: DatasetVersion
    validation: DatasetVersion | None
    held_out: DatasetVersion | None


def defaults() -> Defaults:
    """What this installation prefers."""
    return Defaults(
        batch_size=settings.DEFAULT_BATCH_SIZE,
        learning_rate=settings.DEFAULT_LEARNING_RATE,
        epochs=settings.DEFAULT_EPOCHS,
        lora_r=settings.LORA_R,
        lora_alpha=settings.LORA_ALPHA,
        lora_dropout=settings.LORA_DROPOUT,
    )


def _preferred(recipe: Recipe | None) -> Defaults:
    """`defaults`, as far as the recipe allows them."""
    known = defaults()
    least = fitting.least_batch(recipe.Params) if recipe else 1
    return replace(known, batch_size=max(known.batch_size, least))


def training_recipes() -> list[Recipe]:
    """The recipes that make models, the usual one first."""
    found = [recipe for recipe in RECIPES.all() if issubclass(recipe.Params, TrainParams)]
    return sorted(found, key=lambda recipe: (recipe.name != sft.name, recipe.name))


def find_training_recipe(name: str) -> Recipe:
    """Raises UnknownPlugin, which suggests the nearest name."""
    known = {recipe.name: recipe for recipe in training_recipes()}
    if name not in known:
        raise UnknownPlugin("recipe", name, sorted(known))
    return known[name]


def plan(config: JobFile, *, by: Actor) -> Plan:
    """Resolve and check everything; changes nothing. Raises Invalid with every field that is wrong, Forbidden."""
    found = _Findings(by.workspace)
    base = found.look("model.base_model", lambda: find_base(config.model.base_model, workspace=by.workspace))
    data = found.look("data.dataset", lambda: find_training_data(config.data.dataset, by.workspace))
    validation = found.data_if_named("data.validation_dataset", config.data.validation_dataset)
    held_out = found.data_if_named("evaluation.dataset", config.evaluation.dataset)
    recipe = found.look("recipe", lambda: find_training_recipe(config.recipe))
    found.wrong |= unknown_metrics(config.evaluation.metrics, "evaluation.metrics")
    found.wrong |= contradictions(config)

    context = int(base.facts.get("context") or 0) if base else 0
    settled = settle(config, _preferred(recipe), context=context, rate=getattr(recipe, "rate", 1.0))
    found.look("model.name", lambda: check_name(settled.model.name or "", field="name"))
    if config.deployment.auto_deploy:
        access.require(by, "deployment.create", by.workspace)
    params = found.look("", lambda: recipe_params(settled, recipe.Params, recipe.name)) if recipe else None
    if base and data and recipe:
        found.wrong |= misfits(settled, recipe, base, [("data.dataset", data), ("data.validation_dataset", validation)])
    if data and settled.evaluation.metrics and not held_out and data.row_kind not in evaluate.eats:
        asked = " or ".join(evaluate.eats)
        found.wrong["evaluation.metrics"] = [
            f"can't be measured on {data.row_kind} rows; set evaluation.dataset to one with {asked} rows"
        ]
    if base and held_out:
        found.wrong |= unanswerable(base, held_out, "evaluation.dataset")
    if found.wrong or not (base and data and recipe and params):
        raise Invalid(errors=dict(sorted(found.wrong.items(), key=_reading_order)))
    complete = _with_ids(with_objective(settled, params), base, data, validation, held_out)
    return Plan(complete, recipe, params, base, data, validation, held_out)


_ORDER = tuple(JobFile.model_fields)


def _reading_order(item: tuple[str, Sequence[str]]) -> int:
    section = item[0].partition(".")[0]
    return _ORDER.index(section) if section in _ORDER else -1


@dataclass
class _Findings:
    """What is wrong so far, by field."""

    workspace: Workspace

    def __post_init__(self) -> None:
        self.wrong: Complaints = {}

    def look(self, field: str, call: Callable[[], T]) -> T | None:
        """`call()`, or None after noting its problem at `field` (or at the problem's own fields)."""
        try:
            return call()
        except Forbidden:
            raise
        except Problem as problem:
            if field:
                self.wrong[field] = [" ".join(m) for m in problem.errors.values()] or [problem.detail]
            else:
                self.wrong |= problem.errors
        except UnknownPlugin as problem:
            self.wrong[field] = [str(problem)]
        return None

    def data_if_named(self, field: str, reference: str | None) -> DatasetVersion | None:
        return self.look(field, lambda: find_data(reference, workspace=self.workspace)) if reference else None


def find_base(reference: str, *, workspace: Workspace) -> ModelVersion:
    """The version to start from. Raises Invalid for an adapter: it has no weights of its own to train."""
    version = find_version(reference, workspace=workspace)
    if version.is_adapter:
        raise Invalid(f"{version} is an adapter. Start from a full model, for example its base {version.foundation}.")
    return version


def find_version(reference: str, *, workspace: Workspace) -> ModelVersion:
    """Any version of a model: an id, name (production), name@stage or name:3. Raises NotFound, NotReady, Invalid."""
    return resolve(workspace, reference)


def find_data(reference: str, *, workspace: Workspace) -> DatasetVersion:
    """A data set version that is ready. Raises NotFound, NotReady, Invalid."""
    return datasets.resolve(workspace, reference)


def find_training_data(reference: str, workspace: Workspace) -> DatasetVersion:
    """Like `find_data`; also raises NotReady for one that its fatal findings block."""
    return blocks.require_trainable(find_data(reference, workspace=workspace))


def files_of(data: DatasetVersion) -> Artifact:
    """The stored rows. Raises NotReady while there are none."""
    if data.artifact is None:
        raise NotReady(f"{data} is {data.state}; only a data set that is ready can be used.")
    return data.artifact


def found_at(field: str, call: Callable[[], T]) -> T:
    """`call()`; what it finds wrong with a reference is said at `field`. Raises Invalid."""
    try:
        return call()
    except Problem as problem:
        messages = [" ".join(messages) for messages in problem.errors.values()] or [problem.detail]
        raise Invalid(errors={field: messages}) from None


def unknown_metrics(names: tuple[str, ...] | list[str], field: str) -> Complaints:
    """What to say about metrics that nobody knows."""
    messages = []
    for name in names:
        try:
            METRICS.get(name)
        except UnknownPlugin as error:
            messages.append(str(error))
    return {field: messages} if messages else {}


def contradictions(config: JobFile) -> Complaints:
    """Wishes that exclude each other, or need something that is not there."""
    wrong: Complaints = {}
    data, optimization, evaluation = config.data, config.optimization, config.evaluation
    has_validation = bool(data.validation_split or data.validation_dataset)
    needs_rows = ["needs validation rows: set data.validation_split, for example to 0.1"]
    if data.validation_split and data.validation_dataset:
        wrong["data.validation_split"] = ["name a share or a validation_dataset, not both"]
    if optimization.early_stopping.enabled and not has_validation:
        wrong["optimization.early_stopping.enabled"] = needs_rows
    if optimization.save_best_model and not has_validation:
        wrong["optimization.save_best_model"] = needs_rows
    if evaluation.metrics and not (has_validation or evaluation.dataset):
        wrong["evaluation.metrics"] = [
            "need rows that are not learned: set data.validation_split or evaluation.dataset"
        ]
    if not config.deployment.health_check_enabled:
        wrong["deployment.health_check_enabled"] = ["must be true: what gets traffic is always checked before"]
    return wrong


def misfits(
    config: JobFile, recipe: Recipe, base: ModelVersion, named: list[tuple[str, DatasetVersion | None]]
) -> Complaints:
    """What does not fit together: rows and recipe, rows and model, lengths and context."""
    wrong: Complaints = {}
    for field, data in named:
        if data is not None and data.row_kind not in recipe.eats:
            eaten = " or ".join(recipe.eats)
            wrong[field] = [f"{data} has {data.row_kind} rows; recipe '{recipe.name}' learns from {eaten} rows"]
        elif data is not None and data.row_kind in CONVERSATIONS and not has_template(base):
            wrong["model.base_model"] = [no_template(base)]
    context, wanted = int(base.facts.get("context") or 0), config.hyperparameters.max_seq_length or 0
    virtual = config.method.virtual_tokens
    if context and virtual >= context:
        wrong["method.num_virtual_tokens"] = [f"must be less than {context:,}, the context of {base}"]
    elif context and wanted > context - virtual:
        why = f"the context of {base}" + (f" without the {virtual} learned positions" if virtual else "")
        wrong["hyperparameters.max_seq_length"] = [f"must be {context - virtual:,} or less, {why}"]
    return wrong


def unanswerable(version: ModelVersion, data: DatasetVersion, field: str) -> Complaints:
    """Why `version` can't be asked the rows of `data`."""
    if data.row_kind not in evaluate.eats:
        asked = " or ".join(evaluate.eats)
        return {field: [f"{data} has {data.row_kind} rows; only {asked} rows can be asked"]}
    if data.row_kind == RowKind.CHAT and not has_template(version.foundation):
        return {field: [no_template(version.foundation)]}
    return {}


def has_template(version: ModelVersion) -> bool:
    return bool(version.facts.get("has_template", True))


def no_template(version: ModelVersion) -> str:
    return (
        f"{version} has no chat template, so it can't read conversations. Use an instruct version of the model, "
        "or rows with prompt and completion"
    )


def _with_ids(
    config: JobFile,
    base: ModelVersion,
    data: DatasetVersion,
    validation: DatasetVersion | None,
    held_out: DatasetVersion | None,
) -> JobFile:
    """References as ids: names may come to mean something else."""
    rows = {"dataset": str(data.pk), "validation_dataset": str(validation.pk) if validation else None}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"base_model": str(base.pk)}),
            "data": config.data.model_copy(update=rows),
            "evaluation": config.evaluation.model_copy(
                update={
                    "dataset": str(held_out.pk) if held_out else None,
                    "metrics": tuple(dict.fromkeys(config.evaluation.metrics)),
                }
            ),
        }
    )
