"""The demo's job file is one that the product takes."""

from pathlib import Path

import yaml

import training
from training.engine.recipes.sft import SftParams
from training.jobfile import Defaults, parse, recipe_params, settle


def test_the_demo_job_is_a_valid_job_file() -> None:
    document = yaml.safe_load((Path(training.__path__[0]) / "demo_job.yaml").read_text())
    config = settle(parse(document), Defaults(), context=8192)
    params = recipe_params(config, SftParams, "sft")
    assert isinstance(params, SftParams) and params.packing and params.seed == 7
