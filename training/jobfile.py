"""The job file: what a fine-tune is made from. One schema for the API, YAML and JSON files, the form and commands.

Ranges, defaults and help texts are those of the recipe's parameters, so that no face can disagree with the engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from project.kernel.errors import Invalid
from training.complaints import Complaints, complaints
from training.engine import settings
from training.engine.methods.lora import Lora
from training.engine.methods_registry import METHODS, MethodSettings, any_method
from training.engine.recipes.sft import SftParams

if TYPE_CHECKING:
    AnyMethod = MethodSettings
else:
    AnyMethod = any_method()


@dataclass(frozen=True)
class Defaults:
    """What an installation prefers (DEFAULT_BATCH_SIZE, LORA_R, …)."""

    batch_size: int = 8
    learning_rate: float = 2e-4
    epochs: float = 3.0
    lora_r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0


def like(name: str, source: type[BaseModel] = SftParams, **changes: Any) -> Any:
    """A field with the default, range and help of the recipe's parameter `name`."""
    info = source.model_fields[name]
    limits: dict[str, Any] = {}
    for limit in info.metadata:
        match limit:
            case Gt(gt=value):
                limits["gt"] = value
            case Ge(ge=value):
                limits["ge"] = value
            case Lt(lt=value):
                limits["lt"] = value
            case Le(le=value):
                limits["le"] = value
    return Field(**{"default": info.default, "description": info.description, **limits, **changes})


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Steps = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(_Section):
    base_model: Text = Field(description="The model to start from: an id, name, name@stage or name:3.")
    name: Text | None = Field(
        None, description="The model that gets the result as a new version. Empty: named like the job."
    )


class DataSection(_Section):
    dataset: Text = Field(description="The data set to learn: an id, name (its newest version) or name:3.")
    validation_split: float = like("validation_split")
    validation_dataset: Text | None = Field(None, description="A data set to measure eval_loss on, instead of a split.")
    seed: int = like("seed")


class Hyperparameters(_Section):
    learning_rate: float | None = like("learning_rate", default=None)
    batch_size: int | None = like("batch_size", default=None)
    gradient_accumulation_steps: int = like("gradient_accumulation_steps")
    epochs: float | None = like("epochs", default=None)
    max_steps: int | None = like("max_steps")
    warmup_ratio: float = like("warmup_ratio")
    weight_decay: float = like("weight_decay")
    max_grad_norm: float = like("max_grad_norm")
    max_seq_length: int | None = like("max_seq_length", default=None)


class EarlyStopping(_Section):
    enabled: bool = like("enabled", settings.EarlyStopping)
    patience: int = like("patience", settings.EarlyStopping)
    metric: Literal["eval_loss"] = like("metric", settings.EarlyStopping)


class Optimization(_Section):
    optimizer: settings.Optimizer = like("optimizer")
    scheduler: settings.Scheduler = like("scheduler")
    precision: Literal["auto", "fp32", "bf16"] = like("precision")
    packing: bool = like("packing")
    gradient_checkpointing: bool = like("gradient_checkpointing")
    early_stopping: EarlyStopping = EarlyStopping()
    save_best_model: bool = like("save_best_model")
    checkpoint_every: Literal["epoch"] | Steps = like("checkpoint_every")
    keep_checkpoints: int = like("keep_checkpoints")
    logging_steps: int = like("logging_steps")


class EvaluationSection(_Section):
    metrics: tuple[Text, ...] = Field(
        (), max_length=50, description="Measured on the result as soon as it is there. None: it is not evaluated."
    )
    every: Literal["epoch"] | Steps = like("evaluate_every")
    dataset: Text | None = Field(
        None, description="The held-out data set for it. Empty: the validation data set or the validation split."
    )
    limit: int | None = Field(None, ge=1, le=10_000_000, description="Only so many rows of it. Empty: all.")


class DeploymentSection(_Section):
    auto_deploy: bool = Field(False, description="Make the result ready to answer as soon as it is there.")
    target: Literal["local"] = Field("local", description="Where it is deployed.")
    health_check_enabled: bool = Field(True, description="A deployment is always checked before it gets traffic.")


class LimitsSection(_Section):
    time_limit: int | None = Field(
        None, ge=1, le=366 * 86_400 - 1, description="Seconds of work, over all tries, after which it is stopped."
    )
    memory_limit: int | None = Field(
        None, ge=64 * 2**20, le=2**50 - 1, description="Bytes of the host's memory it may hold."
    )
    priority: int = Field(0, ge=-100, le=100, description="Jobs with a higher one start first.")


class JobFile(_Section):
    """A fine-tune as people write it. What is left out (or null) is settled at launch, see `settle`."""

    name: Text = Field(description="What the job is called in lists.")
    model: ModelSection
    data: DataSection
    recipe: Text = Field("sft", description="How it learns: a training recipe.")
    method: AnyMethod = Field(Lora(), description="What is trained, and how it is kept.")
    objective: dict[str, Any] = Field({}, description="The recipe's own parameters.")
    hyperparameters: Hyperparameters = Hyperparameters()
    optimization: Optimization = Optimization()
    evaluation: EvaluationSection = EvaluationSection()
    deployment: DeploymentSection = DeploymentSection()
    limits: LimitsSection = LimitsSection()


DEEPEST = 20  # sections in sections
FASTEST = 0.3  # the highest learning rate that is chosen by itself

SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "data": DataSection,
    "hyperparameters": Hyperparameters,
    "optimization": Optimization,
    "optimization.early_stopping": EarlyStopping,
    "evaluation": EvaluationSection,
    "deployment": DeploymentSection,
    "limits": LimitsSection,
}
# Where each of a recipe's parameters stands in the job file.
_ELSEWHERE = {"seed": "data.seed", "validation_split": "data.validation_split", "evaluate_every": "evaluation.every"}
PLACES: dict[str, str] = {
    "method": "method",
    **_ELSEWHERE,
    **{name: f"hyperparameters.{name}" for name in Hyperparameters.model_fields},
    **{name: f"optimization.{name}" for name in Optimization.model_fields},
}


def parse(document: Any) -> JobFile:
    """The job file in `document` (what JSON or YAML held). Raises Invalid with every field that is wrong."""
    if not isinstance(document, Mapping):
        raise Invalid("A job file is a mapping with the fields name, model and data.")
    document = _with_the_obvious(document)
    if unclean := _unclean_texts(document):
        raise Invalid(errors=unclean)
    wrong = _misplaced_truths(document)
    try:
        config = JobFile.model_validate(document)
    except ValidationError as error:
        raise Invalid(errors=complaints(error, document, _known_fields(document)) | wrong) from None
    if wrong:
        raise Invalid(errors=wrong)
    return config


def _with_the_obvious(document: Mapping[str, Any]) -> dict[str, Any]:
    """`name` stands for the missing name of the model and the other way round; a method without type is LoRA, and null
    in it is the same as nothing."""
    filled = dict(document)
    method, model = filled.get("method"), filled.get("model")
    if isinstance(method, Mapping):
        typed = {"type": Lora().type, **method}
        known = method_settings(typed).model_fields
        filled["method"] = {name: value for name, value in typed.items() if value is not None or name not in known}
    if "name" not in filled and isinstance(model, Mapping) and model.get("name"):
        filled["name"] = model["name"]
    return filled


def _unclean_texts(value: Any, path: str = "", depth: int = 0) -> Complaints:
    """Texts that no database keeps (NUL, halves of surrogate pairs), and documents too deep to be walked."""
    if depth > DEEPEST:
        return {path.partition(".")[0]: ["is nested too deeply"]}
    if isinstance(value, str):
        clean = "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
        return {} if clean else {path: ["must not hold NUL or broken Unicode"]}
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
        pairs += [(path, key) for key in value if isinstance(key, str)]
    elif isinstance(value, list | tuple):
        pairs = [(path, inner) for inner in value]
    else:
        return {}
    found: Complaints = {}
    for where, inner in pairs:
        found.update(_unclean_texts(inner, where, depth + 1))
    return found


def _misplaced_truths(document: Mapping[str, Any]) -> Complaints:
    """Python counts True as 1; a person who writes `epochs: true` meant something else."""
    found: Complaints = {}
    sections: dict[str, type[BaseModel]] = {**SECTIONS, "method": method_settings(document.get("method"))}
    for section, model in sections.items():
        values: Any = document
        for part in section.split("."):
            values = values.get(part) if isinstance(values, Mapping) else None
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if (
                isinstance(value, bool)
                and name in model.model_fields
                and model.model_fields[name].annotation is not bool
            ):
                found[f"{section}.{name}"] = ["must not be true or false"]
    return found


def _known_fields(document: Mapping[str, Any]) -> dict[str, list[str]]:
    known = {section: list(model.model_fields) for section, model in SECTIONS.items()}
    method = method_settings(document.get("method"))
    return {**known, "": list(JobFile.model_fields), "method": list(method.model_fields)}


def method_settings(section: Any) -> type[MethodSettings]:
    """The fields that a job file's section `method` may have; LoRA's where no method is named that anybody knows."""
    chosen = section.get("type") if isinstance(section, Mapping) else None
    return METHODS.get(chosen).Settings if isinstance(chosen, str) and chosen in METHODS.names() else Lora


def settle(config: JobFile, defaults: Defaults, *, context: int, rate: float = 1.0) -> JobFile:
    """`config` with a number for everything that was left out. `context` is the base model's, in tokens; 0: unknown.

    LoRA learns at the installation's learning rate, other methods at their multiple of it: training all weights takes
    a tenth, or they break down; learned prompts take far more. `rate` is the recipe's multiple of that.
    """
    numbers, method = config.hyperparameters, config.method
    usual = min(defaults.learning_rate * method.rate * rate, FASTEST)
    longest = SftParams.model_fields["max_seq_length"].default
    room = max(context - method.virtual_tokens, 0) or longest
    numbers = numbers.model_copy(
        update={
            "learning_rate": _or(numbers.learning_rate, usual),
            "batch_size": _or(numbers.batch_size, defaults.batch_size),
            "epochs": _or(numbers.epochs, defaults.epochs),
            "max_seq_length": _or(numbers.max_seq_length, min(longest, room)),
        }
    )
    if isinstance(method, Lora):
        wished = {"r": defaults.lora_r, "alpha": defaults.lora_alpha, "dropout": defaults.lora_dropout}
        left_out = {name: value for name, value in wished.items() if name not in method.model_fields_set}
        method = method.model_copy(update=left_out)
    model = config.model.model_copy(update={"name": config.model.name or model_name(config.name)})
    return config.model_copy(update={"hyperparameters": numbers, "method": method, "model": model})


def with_params(config: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A stored job file with the values of a recipe's parameters put where they stand in it."""
    changed: dict[str, Any] = json.loads(json.dumps(config))
    for name, value in params.items():
        section, _, field = PLACES.get(name, f"objective.{name}").partition(".")
        if field:
            changed.setdefault(section, {})[field] = value
        else:
            changed[section] = value
    return changed


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def model_name(text: str) -> str:
    """`text` as a name that references can use: 'Support intents' -> 'support-intents'."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in text)
    return "-".join(part for part in kept.lower().strip("._-").split("-") if part)[:100]


def recipe_params(config: JobFile, params: type[BaseModel], recipe: str) -> BaseModel:
    """The parameters that `recipe` is started with. `config` is settled. Raises Invalid at the job file's own paths."""
    offered = _offered(config)
    wrong: Complaints = {}
    own = [name for name in params.model_fields if name not in PLACES]
    for name in config.objective:
        if name not in own:
            known = f"Known: {', '.join(own)}." if own else f"Recipe '{recipe}' has no parameters of its own."
            wrong[f"objective.{name}"] = [f"Unknown field. {known}"]
        elif isinstance(config.objective[name], bool) and params.model_fields[name].annotation is not bool:
            wrong[f"objective.{name}"] = ["must not be true or false"]
    for name, place in PLACES.items():
        if name not in params.model_fields and not _is_default(config, place):
            wrong[place] = [f"recipe '{recipe}' does not use it"]
    if wrong:
        raise Invalid(errors=wrong)
    values = {name: value for name, value in offered.items() if name in params.model_fields} | config.objective
    try:
        return params.model_validate(values)
    except ValidationError as error:
        found = complaints(error, values, {"": list(params.model_fields)})
        raise Invalid(errors={place_of(path): messages for path, messages in found.items()}) from None


def with_objective(config: JobFile, params: BaseModel) -> JobFile:
    """`config` with all of the recipe's own parameters, as it understood them."""
    own = {name: value for name, value in params.model_dump(mode="json").items() if name not in PLACES}
    return config.model_copy(update={"objective": own})


def _offered(config: JobFile) -> dict[str, Any]:
    """Every parameter a recipe may ask for, by its name there."""
    hyper, optimization = config.hyperparameters.model_dump(), config.optimization.model_dump()
    return {
        "method": config.method.model_dump(),
        "seed": config.data.seed,
        "validation_split": config.data.validation_split,
        "evaluate_every": config.evaluation.every,
        **hyper,
        **optimization,
    }


def _is_default(config: JobFile, place: str) -> bool:
    section, _, name = place.partition(".")
    if not name:
        return bool(getattr(config, section) == JobFile.model_fields[section].default)
    default = SECTIONS[section].model_fields[name].default
    return default is None or bool(getattr(getattr(config, section), name) == default)


def place_of(parameter: str) -> str:
    """Where a recipe's parameter stands in the job file: 'learning_rate' -> 'hyperparameters.learning_rate'."""
    first, dot, rest = parameter.partition(".")
    return PLACES.get(first, f"objective.{first}") + dot + rest
