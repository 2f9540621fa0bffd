"""The launch form, made from the job file's schema; and the form of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from django import forms
from django.forms.boundfield import BoundField
from pydantic.fields import FieldInfo

from project.contracts.runs import RECIPES, Recipe
from training.engine.methods.lora import Lora
from training.engine.methods_registry import METHODS, Method, in_order
from training.engine.metrics_registry import METRICS
from training.engine.recipes import evaluate
from training.jobfile import PLACES, SECTIONS, Defaults, JobFile
from training.planning import training_recipes

# The form's field -> where it stands in the job file. What is not here has no place in the form.
PATHS: dict[str, str] = {
    "name": "name",
    "model_name": "model.name",
    "base_model": "model.base_model",
    "dataset": "data.dataset",
    "validation_split": "data.validation_split",
    "validation_dataset": "data.validation_dataset",
    "seed": "data.seed",
    "recipe": "recipe",
    "method": "method.type",
    **{
        name: f"hyperparameters.{name}"
        for name in (
            *("learning_rate", "epochs", "batch_size", "max_seq_length", "gradient_accumulation_steps", "max_steps"),
            *("warmup_ratio", "weight_decay", "max_grad_norm"),
        )
    },
    **{
        name: f"optimization.{name}"
        for name in (
            *("optimizer", "scheduler", "precision", "packing", "gradient_checkpointing", "save_best_model"),
            *("checkpoint_every", "keep_checkpoints", "logging_steps"),
        )
    },
    "early_stopping": "optimization.early_stopping.enabled",
    "patience": "optimization.early_stopping.patience",
    "metrics": "evaluation.metrics",
    "evaluation_dataset": "evaluation.dataset",
    "limit": "evaluation.limit",
    "evaluate_every": "evaluation.every",
    "auto_deploy": "deployment.auto_deploy",
    **{name: f"limits.{name}" for name in ("time_limit", "memory_limit", "priority")},
}
USUAL = "sft"
FIELDS = {path: name for name, path in PATHS.items()}
TEXTS = ("name", "model_name", "target_modules", "evaluate_every", "checkpoint_every")


def _form_name(method: str, field: str) -> str:
    """LoRA's fields have plain names; the others' begin with the method."""
    return field if method == Lora().type else f"{method}_{field}".replace("-", "_")


# The form's field -> the method it belongs to, and what it is called there.
METHOD_FIELDS: dict[str, tuple[str, str]] = {
    _form_name(method.name, field): (method.name, field)
    for method in in_order()
    for field in method.Settings.model_fields
    if field != "type"
}
# The form's field -> the recipe it belongs to, and what it is called in the job file's `objective`.
OBJECTIVE_FIELDS: dict[str, tuple[str, str]] = {
    f"{recipe.name}_{field}".replace("-", "_"): (recipe.name, field)
    for recipe in training_recipes()
    for field in recipe.Params.model_fields
    if field not in PLACES
}
SHOWN_AT_ONCE = ("r", "alpha", "bits", "num_virtual_tokens", "block_size")  # the others are folded away
ADVANCED = (
    *("gradient_accumulation_steps", "max_steps", "warmup_ratio", "weight_decay", "max_grad_norm", "optimizer"),
    *("scheduler", "precision", "packing", "gradient_checkpointing", "early_stopping"),
    *("patience", "save_best_model", "evaluate_every", "checkpoint_every", "keep_checkpoints", "logging_steps"),
    *("seed", "validation_dataset", "evaluation_dataset", "limit", "auto_deploy"),
    *("time_limit", "memory_limit", "priority"),
)
_LABELS = {
    "model_name": "Model it becomes a version of",
    "dataset": "Data set",
    "validation_dataset": "Validation data set",
    "evaluation_dataset": "Held-out data set",
    "base_model": "Base model",
    "r": "Rank (r)",
    "bits": "Frozen weights in",
    "rslora": "Scale by the root of the rank (rsLoRA)",
    "dora": "Learn lengths apart (DoRA)",
    "init": "Begins with",
    "num_virtual_tokens": "Learned positions",
    "beta": "Hold to the original (beta)",
    "desirable_weight": "Weight of good answers",
    "undesirable_weight": "Weight of bad answers",
    "label_smoothing": "Wrong judgements (share)",
    "target_modules": "Layers",
    "hidden_size": "Width of the network",
    "projection": "Through a small network",
    "max_seq_length": "Longest row (tokens)",
    "metrics": "Measure afterwards",
    "limit": "Rows to evaluate",
    "early_stopping": "Early stopping",
    "evaluate_every": "Validate every",
    "checkpoint_every": "Checkpoint every",
    "logging_steps": "Chart points every (steps)",
    "auto_deploy": "Deploy it at once",
    "time_limit": "Time limit (seconds)",
    "memory_limit": "Memory limit (bytes)",
}
# Where the job file's words are about references, the form has a list.
_HELP = {
    "name": "What it is called in lists.",
    "base_model": "The model to start from.",
    "dataset": "The rows to learn.",
    "model_name": "The model that gets the result as its next version. Empty: named like the job.",
    "validation_split": "Share of the rows that is held back: never learned, and asked afterwards. 0.1 is a tenth.",
}
_PLACEHOLDERS = {
    "learning_rate": "after the method",
    "max_seq_length": "after the model, at most 512",
    "model_name": "like the job",
    "max_steps": "after the epochs",
    "time_limit": "none",
    "memory_limit": "none",
    "limit": "all",
}
_CHOICES: dict[str, tuple[tuple[str, str], ...]] = {
    "bits": (("", "16 or 32 bits"), ("8", "8 bits (QLoRA)"), ("4", "4 bits (QLoRA)")),
}


class Names(forms.MultipleChoiceField):
    """Ticked names. Unknown ones are judged by the job file, in the same words as everywhere."""

    def valid_value(self, value: str) -> bool:
        return True


def schema_field(path: str) -> FieldInfo:
    """The job file's field at a dotted path."""
    section, _, name = path.rpartition(".")
    owner = SECTIONS[section] if section else JobFile
    return owner.model_fields[name]


Choices = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RecipeChoice:
    """One recipe in the form: its radio button, its words, and its own fields."""

    method: Recipe  # what has a label, as of a method
    radio: str
    chosen: bool
    fields: list[BoundField]
    summary: str
    folded: tuple[BoundField, ...] = ()


@dataclass(frozen=True)
class MethodChoice:
    """One method in the form: its radio button, its words, and its own fields."""

    method: Method
    radio: str
    chosen: bool
    fields: list[BoundField]
    folded: list[BoundField]

    @property
    def summary(self) -> str:
        return " ".join((self.method.Settings.__doc__ or "").split())

    @property
    def folded_has_errors(self) -> bool:
        return any(field.errors for field in self.folded)


class LaunchForm(forms.Form):
    """Everything a person may say about a fine-tune. Fields take any text; `parse` and `plan` judge it."""

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        bases: Choices,
        data_sets: Choices,
        recipes: Choices,
        defaults: Defaults,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data, initial={**_initial(defaults), **_flat(document or {})})
        choices: dict[str, Choices] = {
            "base_model": [("", "Choose a model"), *bases],
            "dataset": [("", "Choose a data set"), *data_sets],
            "validation_dataset": [("", "None: use the split"), *data_sets],
            "evaluation_dataset": [("", "What is held back for validation"), *data_sets],
            "recipe": recipes,
            "method": [(method.name, method.label) for method in in_order()],
            "metrics": [(metric.name, metric.label) for metric in METRICS.all()],
        }
        for name, path in PATHS.items():
            info = Lora.model_fields["type"] if name == "method" else schema_field(path)
            self.fields[name] = _field(name, info, choices.get(name))
        for name, (method, field) in METHOD_FIELDS.items():
            self.fields[name] = _field(field, METHODS.get(method).Settings.model_fields[field], None)
        for name, (recipe, field) in OBJECTIVE_FIELDS.items():
            self.fields[name] = _field(field, RECIPES.get(recipe).Params.model_fields[field], None)

    @property
    def recipes(self) -> list[RecipeChoice]:
        """Every recipe that trains, the usual one first."""
        found = []
        for widget in self["recipe"]:
            name = str(widget.data["value"])
            own = [self[field] for field, (owner, _) in OBJECTIVE_FIELDS.items() if owner == name]
            chosen = str(self["recipe"].value()) == name
            recipe = RECIPES.get(name)
            words = f"{_first_sentence(recipe)} From {' or '.join(recipe.eats)} rows."
            found.append(RecipeChoice(recipe, widget.tag(), chosen=chosen, fields=own, summary=words))
        return found

    @property
    def recipe_label(self) -> str:
        return next((one.method.label for one in self.recipes if one.chosen), "")

    @property
    def other_recipe_is_chosen(self) -> bool:
        return str(self["recipe"].value()) != USUAL or "recipe" in self.errors

    @property
    def methods(self) -> list[MethodChoice]:
        """Every method, the prominent ones first."""
        radios = {str(widget.data["value"]): widget for widget in self["method"]}
        found = []
        for method in in_order():
            own = [(field, self[name]) for name, (owner, field) in METHOD_FIELDS.items() if owner == method.name]
            radio = radios[method.name]
            found.append(
                MethodChoice(
                    method,
                    radio.tag(),
                    chosen=str(self["method"].value()) == method.name,
                    fields=[bound for field, bound in own if field in SHOWN_AT_ONCE],
                    folded=[bound for field, bound in own if field not in SHOWN_AT_ONCE],
                )
            )
        return found

    @property
    def rare_method_is_chosen(self) -> bool:
        return any(one.chosen and not one.method.prominent for one in self.methods)

    def document(self) -> dict[str, Any]:
        """The job file that was filled in. What was left empty is left out."""
        document: dict[str, Any] = {"model": {}, "data": {}}
        for name, path in PATHS.items():
            value = self.cleaned_data.get(name)
            if value in (None, ""):
                continue
            *sections, last = path.split(".")
            target = document
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = value
        chosen = self._method
        for name, (method, field) in METHOD_FIELDS.items():
            value = self.cleaned_data.get(name)
            if method == chosen and value not in (None, ""):
                document.setdefault("method", {})[field] = _of_method(field, value)
        recipe = document.get("recipe", USUAL)
        for name, (owner, field) in OBJECTIVE_FIELDS.items():
            value = self.cleaned_data.get(name)
            if owner == recipe and value not in (None, ""):
                document.setdefault("objective", {})[field] = value
        if not _can_be_asked(recipe) and not document.get("evaluation", {}).get("dataset"):
            document.get("evaluation", {}).pop("metrics", None)  # the form ticks some for rows with answers
        return document

    @property
    def _method(self) -> str:
        return self.cleaned_data.get("method") or Lora().type

    def blame(self, errors: Mapping[str, Sequence[str]]) -> None:
        """Show what is wrong at the fields; what belongs to no field goes on top."""
        for path, messages in errors.items():
            section, _, field = path.partition(".")
            own = _form_name(self._method, field) if section == "method" and field != "type" else ""
            if section == "objective":
                own = f"{self.cleaned_data.get('recipe') or USUAL}_{field}".replace("-", "_")
            name = own if own in self.fields else FIELDS.get(path) or FIELDS.get(path.rpartition(".")[0]) or section
            for message in messages:
                if name in self.fields:
                    self.add_error(name, message[:1].upper() + message[1:])
                else:
                    self.add_error(None, f"{path}: {message}")

    @property
    def advanced_has_errors(self) -> bool:
        return any(name in self.errors for name in ADVANCED)


def _of_method(field: str, value: Any) -> Any:
    """What was typed as the job file has it: layers as a list ('all-linear' and 'auto' stay)."""
    if field == "target_modules":
        words = [word.strip() for word in value.split(",") if word.strip()]
        return words[0] if words in (["all-linear"], ["auto"]) else words
    return value


def _field(name: str, info: FieldInfo, choices: Choices | None) -> forms.Field:
    help_text = "" if name == "method" else _HELP.get(name, info.description or "")
    label = _LABELS.get(name, name.replace("_", " ").capitalize())
    kind: dict[str, Any] = {"label": label, "help_text": help_text, "required": False}
    if name == "metrics":
        return Names(choices=choices or (), widget=forms.CheckboxSelectMultiple, **kind)
    if name in ("method", "recipe"):
        return forms.CharField(widget=forms.RadioSelect(choices=choices or ()), **kind)
    if info.annotation is bool:
        return forms.BooleanField(**kind)
    offered = choices or _CHOICES.get(name) or [(value, value) for value in _literals(info)]
    if offered:
        return forms.CharField(widget=forms.Select(choices=offered), **kind)
    attributes = {"placeholder": _PLACEHOLDERS.get(name, "")}
    widget = forms.TextInput(attributes) if name in TEXTS else forms.NumberInput({"step": "any", **attributes})
    return forms.CharField(widget=widget, **kind)


def _literals(info: FieldInfo) -> list[str]:
    return list(get_args(info.annotation)) if get_origin(info.annotation) is Literal else []


def _initial(defaults: Defaults) -> dict[str, Any]:
    """What the form shows to start with. Fields that depend on others are empty, and say what that means."""
    start = {name: schema_field(path).default for name, path in PATHS.items() if name != "method"}
    for name, (method, field) in METHOD_FIELDS.items():
        start[name] = METHODS.get(method).Settings.model_fields[field].default
    for name, (recipe, field) in OBJECTIVE_FIELDS.items():
        start[name] = RECIPES.get(recipe).Params.model_fields[field].default
    return {
        **{name: value for name, value in start.items() if isinstance(value, str | int | float)},
        "name": "",
        "base_model": "",
        "dataset": "",
        "method": "lora",
        "recipe": USUAL,
        "r": defaults.lora_r,
        "alpha": defaults.lora_alpha,
        "dropout": defaults.lora_dropout,
        "epochs": defaults.epochs,
        "batch_size": defaults.batch_size,
        "validation_split": 0.1,
        "metrics": ["exact_match", "f1", "perplexity"],
    }


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """A job file as the form's values: for starting from an earlier fine-tune."""
    values = {}
    for name, path in PATHS.items():
        found: Any = document
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None:
            values[name] = found
    section = document.get("method") or {}
    for name, (method, field) in METHOD_FIELDS.items():
        if method == section.get("type") and (value := section.get(field)) is not None:
            values[name] = ", ".join(value) if isinstance(value, list | tuple) else value
    objective = document.get("objective") or {}
    for name, (recipe, field) in OBJECTIVE_FIELDS.items():
        if recipe == document.get("recipe") and (value := objective.get(field)) is not None:
            values[name] = value
    return values


def _first_sentence(recipe: Recipe) -> str:
    """What a recipe is for, in the words of its module."""
    doc = " ".join((getattr(recipe, "__doc__", "") or "").split("\n\n")[0].split())
    words = doc.partition(": ")[2] or doc
    return words[:1].upper() + words[1:]


def _can_be_asked(recipe: str) -> bool:
    """Do the rows that the recipe learns from have questions, which an evaluation can ask?"""
    known = {one.name: one for one in training_recipes()}
    return recipe not in known or any(kind in evaluate.eats for kind in known[recipe].eats)


class JobFileForm(forms.Form):
    """The alternative: paste a job file."""

    job_file = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 18, "class": "mono", "spellcheck": "false"}),
        label="Job file",
        help_text="YAML or JSON, the same as for `manage.py train --config` and the API.",
        strip=False,
    )


class EvaluationForm(forms.Form):
    """What to measure, on which rows."""

    model_version = forms.CharField(widget=forms.Select, label="Model version", required=False)
    dataset_version = forms.CharField(
        widget=forms.Select,
        label="Data set",
        required=False,
        help_text="Rows that the version has not learned: scores on its own training data flatter it.",
    )
    metrics = Names(widget=forms.CheckboxSelectMultiple, required=False)
    limit = forms.CharField(
        widget=forms.NumberInput,
        required=False,
        label="Rows",
        help_text="At most so many, drawn at random. Empty: all.",
    )
    max_new_tokens = forms.CharField(
        widget=forms.NumberInput,
        required=False,
        label="Longest answer (tokens)",
        help_text="Longer ones are cut. Empty: twice the longest reference.",
    )

    def __init__(self, *args: Any, versions: Choices, data_sets: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["model_version"].widget = forms.Select(choices=[("", "Choose a version"), *versions])
        self.fields["dataset_version"].widget = forms.Select(choices=[("", "Choose a data set"), *data_sets])
        metrics = self.fields["metrics"]
        assert isinstance(metrics, forms.MultipleChoiceField)  # noqa: S101
        metrics.choices = [(metric.name, metric.label) for metric in METRICS.all()]

    def body(self) -> dict[str, Any]:
        """What the API would be sent."""
        return {name: value for name, value in self.cleaned_data.items() if value not in ("", None)}
