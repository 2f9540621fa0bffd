"""`train` and `evaluate`: every mistake is one line that says what to do."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from datasets_app.models import DatasetVersion
from project.jobs.models import Job
from project.testing import Cast
from registry.models import ModelVersion
from training.models import Evaluation


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, "--workspace", "acme", stdout=out, stderr=StringIO())
    return out.getvalue()


@pytest.fixture
def config(job_file: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_file))
    return path


def test_train_starts_a_job(cast: Cast, config: Path) -> None:
    printed = json.loads(run("train", "--config", str(config), "--json"))
    job = Job.objects.get()
    assert printed == {"job": str(job.pk), "state": "queued"}
    assert job.created_by == "command"
    assert "is draft" in run("train", "--config", str(config), "--draft")
    assert Job.objects.filter(state="draft").count() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nmodel: {base_model: tiny}\ndata: {dataset: sums}\nhyperparameters: {epochs: -1}", "must be greater"),
        ("name: x\nmodel: {base_model: tinny}\ndata: {dataset: sums}", "Did you mean 'tiny'?"),
        ("name: x\nmodel: {base_model: tiny}\ndata: {dataset: sums}\nrecipe: stf", "Did you mean 'sft'?"),
        ("name: [", "Not valid YAML"),
        ("", "empty"),
    ],
)
def test_train_says_what_is_wrong(
    cast: Cast, base: ModelVersion, data: DatasetVersion, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(CommandError) as caught:
        run("train", "--config", str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Job.objects.exists()


def test_train_needs_a_readable_file(cast: Cast, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="can't be read"):
        run("train", "--config", str(tmp_path / "none.yaml"))
    (tmp_path / "weights.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CommandError, match="not a text file"):
        run("train", "--config", str(tmp_path / "weights.bin"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--model": "tinny"}, "model: There is no model 'tinny'. Did you mean 'tiny'?"),
        ({"--data": "sum"}, "Did you mean 'sums'?"),
        ({"--metrics": "rouge"}, "metrics: Unknown metric 'rouge'"),
        ({"--metrics": ","}, "metrics: Name at least one"),
        ({"--limit": "0"}, "limit: must be a whole number from 1"),
        ({"--limit": "few"}, "invalid int value"),
        ({"--max-new-tokens": "-3"}, "max_new_tokens"),
        ({"--output": "/nowhere/at/all.json"}, "can't be written"),
    ],
)
def test_evaluate_says_what_is_wrong(
    cast: Cast, base: ModelVersion, data: DatasetVersion, changes: dict[str, str], words: str
) -> None:
    options = {"--model": "tiny", "--data": "sums", **changes}
    with pytest.raises(CommandError) as caught:
        run("evaluate", *[part for pair in options.items() for part in pair])
    assert words in str(caught.value)
    assert not Evaluation.objects.exists()
