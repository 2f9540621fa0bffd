"""The job file: one schema, whichever way it comes in, and every mistake named by its field."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from project.kernel.errors import Invalid, TooLarge
from training.documents import read_yaml_or_json
from training.engine.methods_registry import METHODS
from training.engine.recipes.sft import SftParams
from training.jobfile import PLACES, SECTIONS, Defaults, JobFile, parse, recipe_params, settle

SMALLEST = {"name": "adder", "model": {"base_model": "tiny"}, "data": {"dataset": "sums"}}
EXAMPLE = """
name: support-intents
model: {base_model: smollm2-135m-instruct, name: support-intents}
data: {dataset: banking77, validation_split: 0.1, seed: 7}
recipe: sft
method: {type: lora, bits: null, r: 8, alpha: 16, dropout: 0.0, target_modules: all-linear}
objective: {}
hyperparameters: {learning_rate: 2e-4, batch_size: 8, gradient_accumulation_steps: 1, epochs: 3, warmup_ratio: 0.03, weight_decay: 0.0, max_seq_length: 512}
optimization: {optimizer: adamw, scheduler: cosine, precision: auto, early_stopping: {enabled: true, patience: 2, metric: eval_loss}, save_best_model: true}
evaluation: {metrics: [exact_match, f1, perplexity], every: epoch}
deployment: {auto_deploy: false, target: local, health_check_enabled: true}
"""  # noqa: E501  (as people write it)


def settled(**changes: Any) -> JobFile:
    return settle(parse({**SMALLEST, **changes}), Defaults(), context=0)


def test_the_documented_example_is_read() -> None:
    config = parse(read_yaml_or_json(EXAMPLE))
    assert config.hyperparameters.learning_rate == 2e-4
    assert config.optimization.early_stopping.enabled
    params = recipe_params(settle(config, Defaults(), context=8192), SftParams, "sft")
    assert isinstance(params, SftParams)
    assert (params.learning_rate, params.seed, params.validation_split, params.evaluate_every) == (
        2e-4,
        7,
        0.1,
        "epoch",
    )
    assert params.method.type == "lora"
    assert params.save_best_model


def test_the_demo_s_job_file_is_read(settings: Any) -> None:
    text = (Path(settings.BASE_DIR) / "training" / "demo_job.yaml").read_text()
    assert recipe_params(settle(parse(read_yaml_or_json(text)), Defaults(), context=8192), SftParams, "sft")


def test_the_documentation_names_every_field(settings: Any) -> None:
    text = (Path(settings.BASE_DIR) / "templates" / "docs" / "training.md").read_text()
    sections = [*SECTIONS.items(), *(("method", method.Settings) for method in METHODS.all())]
    fields = {f"{name}.{field}" for name, model in sections for field in model.model_fields}
    fields = {field for field in fields if not field.startswith("optimization.early_stopping.")}
    assert not [field for field in fields if f"`{field}`" not in text]


def test_yaml_and_json_are_the_same_document() -> None:
    written = settled().model_dump(mode="json")
    assert parse(read_yaml_or_json(json.dumps(written))) == parse(read_yaml_or_json(yaml.safe_dump(written)))
    assert parse(written) == settled()


def test_every_parameter_of_the_recipe_has_a_place_and_the_same_limits() -> None:
    assert set(SftParams.model_fields) == set(PLACES)
    document = JobFile.model_json_schema()["$defs"]
    engine = SftParams.model_json_schema()["properties"]
    for name, place in PLACES.items():
        section, _, field = place.rpartition(".")
        if section in ("hyperparameters", "optimization") and name != "early_stopping":
            mine = document[section.capitalize()]["properties"][field]
            assert _facts(mine) == _facts(engine[name]), place


def _facts(schema: dict[str, Any]) -> dict[str, Any]:
    """What a JSON schema says about one value, whether or not null is allowed besides."""
    flat = {**schema, **next((kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"), {})}
    names = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "description", "const")
    return {name: flat[name] for name in names if name in flat}


def test_what_is_left_out_is_settled_by_installation_method_and_model() -> None:
    preferred = Defaults(batch_size=4, learning_rate=1e-3, epochs=5, lora_r=16, lora_alpha=64, lora_dropout=0.1)
    config = settle(parse(SMALLEST), preferred, context=256)
    assert config.hyperparameters.learning_rate == 1e-3
    assert (config.hyperparameters.batch_size, config.hyperparameters.epochs) == (4, 5)
    assert config.hyperparameters.max_seq_length == 256
    assert config.method.model_dump(include={"r", "alpha", "dropout"}) == {"r": 16, "alpha": 64, "dropout": 0.1}
    assert config.model.name == "adder"
    full = settle(parse({**SMALLEST, "method": {"type": "full"}}), preferred, context=8192)
    assert full.hyperparameters.learning_rate == pytest.approx(1e-4)
    assert full.hyperparameters.max_seq_length == 512


@pytest.mark.parametrize(
    ("method", "rate"), [("lora", 2e-4), ("full", 2e-5), ("ia3", 3e-3), ("prompt", 3e-2), ("prefix", 1e-2)]
)
def test_each_method_learns_at_its_own_rate(method: str, rate: float) -> None:
    assert settled(method={"type": method}).hyperparameters.learning_rate == pytest.approx(rate)
    high = settle(parse({**SMALLEST, "method": {"type": method}}), Defaults(learning_rate=0.1), context=0)
    assert (high.hyperparameters.learning_rate or 9) <= 1
    assert settled(method={"type": method}, hyperparameters={"learning_rate": 0.5}).hyperparameters.learning_rate == 0.5


def test_null_in_a_method_is_the_same_as_nothing() -> None:
    preferred = Defaults(lora_r=16)
    assert parse({**SMALLEST, "method": {"bits": "4"}}) == parse({**SMALLEST, "method": {"bits": 4}})
    for method in ({}, {"r": None, "bits": None}, {"type": "lora", "alpha": None}):
        assert settle(parse({**SMALLEST, "method": method}), preferred, context=0).method.model_dump()["r"] == 16
    with pytest.raises(Invalid, match=r"method\.rank: Unknown field"):
        parse({**SMALLEST, "method": {"rank": None}})


def test_a_learned_prompt_leaves_room_in_a_short_context() -> None:
    config = settle(parse({**SMALLEST, "method": {"type": "prompt"}}), Defaults(), context=256)
    assert config.hyperparameters.max_seq_length == 236


@pytest.mark.parametrize(
    ("method", "switch"), [("prompt", "packing"), ("prefix", "packing"), ("prefix", "gradient_checkpointing")]
)
def test_what_a_method_can_not_do_is_named_at_the_switch(method: str, switch: str) -> None:
    config = settled(method={"type": method}, optimization={switch: True})
    with pytest.raises(Invalid) as caught:
        recipe_params(config, SftParams, "sft")
    assert list(caught.value.errors) == [f"optimization.{switch}"]
    assert f"can't be combined with {method}: " in caught.value.detail


def test_what_is_said_stays_as_it_is() -> None:
    config = settled(hyperparameters={"learning_rate": 0.5, "max_seq_length": 2048}, method={"r": 2})
    assert (config.hyperparameters.learning_rate, config.hyperparameters.max_seq_length) == (0.5, 2048)
    assert config.method.model_dump()["r"] == 2


def test_one_name_is_enough() -> None:
    config = settle(parse({**SMALLEST, "name": "Support: intents (v2)"}), Defaults(), context=0)
    assert config.model.name == "support-intents-v2"
    unnamed = {"model": {"base_model": "tiny", "name": "adder"}, "data": {"dataset": "sums"}}
    assert parse(unnamed).name == "adder"


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("hyperparameters", {"learning_rate": 0}, "hyperparameters.learning_rate: must be greater than 0"),
        ("hyperparameters", {"learning_rate": -1}, "hyperparameters.learning_rate: must be greater than 0"),
        ("hyperparameters", {"learning_rate": "fast"}, "hyperparameters.learning_rate: must be a number"),
        ("hyperparameters", {"learning_rate": float("nan")}, "hyperparameters.learning_rate: must be a finite number"),
        ("hyperparameters", {"learning_rate": "1e400"}, "hyperparameters.learning_rate: must be a finite number"),
        ("hyperparameters", {"learning_rate": 7}, "hyperparameters.learning_rate: must be 1 or less"),
        ("hyperparameters", {"batch_size": 2.5}, "hyperparameters.batch_size: must be a whole number"),
        ("hyperparameters", {"batch_size": 10**30}, "hyperparameters.batch_size: must be 4,096 or less"),
        ("hyperparameters", {"epochs": True}, "hyperparameters.epochs: must not be true or false"),
        ("optimization", {"early_stopping": {"patience": True}}, "patience: must not be true or false"),
        ("method", {"r": False}, "method.r: must not be true or false"),
        ("hyperparameters", {"epochs": [3]}, "hyperparameters.epochs: must be a number"),
        ("hyperparameters", {"learnig_rate": 1}, "hyperparameters.learnig_rate: Unknown field. Did you mean"),
        ("hyperparameters", "fast", "hyperparameters: must be a section with fields"),
        (
            "method",
            {"type": "lorra"},
            "method.type: must be one of 'lora', 'full', 'ia3', 'prefix', 'prompt', 'p-tuning',",
        ),
        ("method", {"type": "full", "r": 8}, "method.r: Unknown field"),
        ("method", {"r": 0}, "method.r: must be 1 or more"),
        ("method", {"bits": 3}, "method.bits: must be one of '4', '8'"),
        ("method", {"type": "ia3", "r": 8}, "method.r: Unknown field"),
        ("method", {"type": "ia3", "target_modules": []}, "target_modules: must be 'auto' or must have at least 1"),
        ("method", {"type": "prefix", "num_virtual_tokens": 0}, "method.num_virtual_tokens: must be 1 or more"),
        ("method", {"type": "prefix", "projection": 3}, "method.projection: must be true or false"),
        ("method", {"type": "prefix", "num_virtual_tokens": True}, "num_virtual_tokens: must not be true or false"),
        ("method", {"bits": 4, "init": "pissa"}, "method: init pissa needs whole weights: leave bits empty"),
        ("method", {"target_modules": []}, "method.target_modules: must be 'all-linear' or name at least one layer"),
        ("evaluation", {"every": 0}, "evaluation.every: must be 'epoch' or must be 1 or more"),
        ("evaluation", {"metrics": "f1"}, "evaluation.metrics: must be a list"),
        ("optimization", {"optimizer": "adam"}, "optimization.optimizer: must be one of"),
        (
            "optimization",
            {"early_stopping": {"patience": 0}},
            "optimization.early_stopping.patience: must be 1 or more",
        ),
        ("optimization", {"early_stopping": {"patence": 2}}, "optimization.early_stopping.patence: Unknown field"),
        ("data", {"dataset": "sums", "validation_split": 0.9}, "data.validation_split: must be 0.5 or less"),
        ("data", None, "data: must be a section with fields"),
        ("model", {}, "model.base_model: is required"),
        ("model", {"base_model": ""}, "model.base_model: must not be empty"),
        ("model", {"base_model": 3}, "model.base_model: must be text"),
        ("name", "a\0b", "name: must not hold NUL"),
        ("name", "x" * 300, "name: must be at most 200 characters"),
        ("objective", {"beta\ud800": 1}, "objective: must not hold NUL or broken Unicode"),
        ("objective", {"a": json.loads("[" * 500 + "]" * 500)}, "objective: is nested too deeply"),
        ("modle", {}, "modle: Unknown field. Did you mean 'model'?"),
    ],
)
def test_every_mistake_is_named_by_its_field(section: str, value: Any, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse({**SMALLEST, section: value})
    assert message in caught.value.detail


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse({"data": {}, "hyperparameters": {"epochs": 0, "batch_size": "x"}})
    assert set(caught.value.errors) == {
        "name",
        "model",
        "data.dataset",
        "hyperparameters.epochs",
        "hyperparameters.batch_size",
    }


@pytest.mark.parametrize("document", [None, [], "text", 3, True])
def test_a_job_file_is_a_mapping(document: Any) -> None:
    with pytest.raises(Invalid, match="is a mapping"):
        parse(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("name: [1, 2", "line 1"),
        ('{"name": 1,}', "line 1"),
        ("name: a\nname: b", "line 2: 'name' is there twice"),
        ('{"name": 1, "name": 2}', "'name' is there twice"),
        ("a: &x [1]\nb: *x", "anchors and aliases"),
        ("!!python/object/apply:os.system [ls]", "tag"),
        ("[" * 3000, "nested too deeply"),
        ("? [a]\n: b", "must be text"),
        ("\0", "unacceptable character"),
        ("n: " + "9" * 5000, "digits"),
    ],
)
def test_documents_that_cannot_be_read_say_where(text: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_yaml_or_json(text)
    assert message in caught.value.detail


def test_a_huge_document_is_refused() -> None:
    with pytest.raises(TooLarge):
        read_yaml_or_json("name: " + "x" * 300_000)


def test_yaml_values_are_what_they_look_like() -> None:
    assert read_yaml_or_json("a: 2e-4\nb: 12:30\nc: no\nd: 2024-01-01\ne: 1E5\nf: ~\ng: .5") == {
        "a": 2e-4,
        "b": "12:30",
        "c": "no",
        "d": "2024-01-01",
        "e": 1e5,
        "f": None,
        "g": 0.5,
    }


class Preference(BaseModel):
    """The parameters of a recipe from elsewhere: a parameter of its own, and few of the common ones."""

    model_config = ConfigDict(extra="forbid")

    method: Any
    learning_rate: float = Field(gt=0)
    beta: float = Field(0.1, gt=0)


def test_a_recipe_from_elsewhere_gets_its_own_parameters() -> None:
    params = recipe_params(settled(objective={"beta": 0.3}), Preference, "dpo")
    assert isinstance(params, Preference)
    assert params.beta == 0.3


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"objective": {"beta": -1}}, "objective.beta"),
        ({"objective": {"gamma": 1}}, "objective.gamma"),
        ({"hyperparameters": {"epochs": 3.5}, "optimization": {"packing": True}}, "optimization.packing"),
    ],
)
def test_what_a_recipe_does_not_know_is_refused_at_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        recipe_params(settled(**changes), Preference, "dpo")
    assert path in caught.value.errors
