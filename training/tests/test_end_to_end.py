"""With real engine processes: rows in, a version out, evaluated; and the same from a shell without a worker."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from datasets_app.models import DatasetVersion
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.kernel import artifacts, edges
from project.testing import Cast
from registry.models import ModelVersion
from training import answers
from training.actions import evaluations, finetunes
from training.jobfile import parse
from training.models import Evaluation, FineTune
from training.tests.conftest import MakeData, completions, conversations, pairs, texts, thumbs

pytestmark = pytest.mark.django_db(transaction=True)
LEARNING = {"learning_rate": 2e-3, "epochs": 2, "batch_size": 4, "max_seq_length": 64}


def ended(job: Job) -> Job:
    job = run_to_end(job)
    assert job.state == "succeeded", (job.failure_message, job.failure_hint, job.failure_lines)
    return job


def trained(cast: Cast, document: dict[str, Any]) -> tuple[Job, ModelVersion]:
    job = ended(finetunes.launch(parse(document), by=cast.actor("teammate")))
    return job, ModelVersion.objects.get(pk=job.result["model_version"])


@pytest.mark.full
def test_rows_become_an_evaluated_version(
    cast: Cast, job_file: dict[str, Any], base: ModelVersion, data: DatasetVersion, make_data: MakeData
) -> None:
    held_out = make_data("held-out", conversations(6, start=500))
    wishes = {
        "data": {"dataset": "sums", "validation_split": 0.2, "seed": 7},
        "hyperparameters": LEARNING,
        "method": {"type": "lora", "r": 4},
        "evaluation": {"metrics": ["exact_match", "f1", "perplexity"], "dataset": "held-out", "limit": 4},
    }
    job, version = trained(cast, {**job_file, **wishes})

    assert str(version) == "adder:1"
    assert (version.kind, version.stage, version.base, version.origin) == ("adapter", "draft", base, "training")
    assert version.data_digest == data.digest
    assert version.config["hyperparameters"]["learning_rate"] == 2e-3
    assert version.metrics["steps"] == job.result["steps"] > 0
    assert version.metrics["eval_loss"] > 0
    assert not artifacts.verify(version.artifact)
    assert FineTune.objects.get(job=job).result_version == version
    made_from = {(edge.source_kind, edge.relation) for edge in edges.upstream(version)}
    assert {("modelversion", "base of"), ("datasetversion", "trained"), ("job", "made")} <= made_from

    measured = ended(Job.objects.get(pk=job.result["evaluation_job"]))
    evaluation = Evaluation.objects.get(pk=measured.result["evaluation"])
    assert (evaluation.version, evaluation.data_version, evaluation.rows) == (version, held_out, 4)
    assert {score.metric for score in version.scores.all()} == {"exact_match", "f1", "perplexity"}
    for score in version.scores.all():
        assert score.low <= score.value <= score.high
        assert (score.data_digest, score.n) == (held_out.digest, 4)
    rows = list(answers.read(evaluation))
    assert len(rows) == 4
    assert all(row.answer is not None and row.scores["perplexity"] > 0 for row in rows)


def test_the_part_that_training_held_back_is_what_is_asked(
    cast: Cast, job_file: dict[str, Any], base: ModelVersion, data: DatasetVersion
) -> None:
    wishes = {
        "data": {"dataset": "sums", "validation_split": 0.25, "seed": 3},
        "hyperparameters": {**LEARNING, "epochs": 1},
        "evaluation": {"metrics": ["perplexity"]},
    }
    job, version = trained(cast, {**job_file, **wishes})
    assert job.result["validation_rows"] == 5
    evaluation = Evaluation.objects.get(job=ended(Job.objects.get(pk=job.result["evaluation_job"])))
    assert (evaluation.rows, evaluation.learned) == (5, False)
    score = version.scores.get()
    assert score.value == pytest.approx(2.718281828 ** job.result["eval_loss"], rel=0.05)
    assert score.data_digest == evaluation.rows_digest != data.digest
    assert "validation" in score.data_label


@pytest.mark.full
def test_all_weights_can_be_trained(cast: Cast, job_file: dict[str, Any], base: ModelVersion) -> None:
    wishes = {"method": {"type": "full"}, "hyperparameters": {**LEARNING, "learning_rate": 1e-3}}
    job, version = trained(cast, {**job_file, **wishes})
    assert (version.kind, version.base) == ("full", None)
    assert version.facts["parameters"] == base.facts["parameters"]
    assert version.facts["has_template"] is True
    measured = ended(
        evaluations.launch(
            version, FineTune.objects.get(job=job).data_version, metrics=["f1"], limit=2, by=cast.actor("teammate")
        )
    )
    assert "learned these very rows" in measured.result["warnings"][0]


@pytest.mark.full
@pytest.mark.parametrize(
    ("recipe", "rows", "objective", "charted"),
    [
        ("dpo", pairs, {"beta": 0.3, "loss": "ipo"}, "reward_margin,eval_reward_margin"),
        ("orpo", pairs, {}, "preference_accuracy,eval_preference_accuracy"),
        ("kto", thumbs, {"desirable_weight": 1.5}, "kl,eval_kl"),
        ("pretrain", texts, {}, "loss,eval_loss"),
    ],
)
def test_every_recipe_is_launched_by_the_api_and_ends_as_an_evaluated_version(
    cast: Cast, base: ModelVersion, make_data: MakeData, recipe: str, rows: Any, objective: Any, charted: str
) -> None:
    make_data("learned", rows(12))
    held_out = make_data("held-out", completions(4))
    document = {
        "name": "adder", "recipe": recipe, "objective": objective,
        "model": {"base_model": "tiny"}, "data": {"dataset": "learned", "validation_split": 0.25},
        "hyperparameters": {**LEARNING, "learning_rate": 1e-3},
        "evaluation": {"metrics": ["exact_match", "perplexity"], "dataset": "held-out"},
    }  # fmt: skip
    answer = cast.api("teammate").post("/api/v1/jobs/", document)
    assert answer.status_code == 201, answer.content
    job = ended(Job.objects.get(pk=answer.json()["id"]))
    version = ModelVersion.objects.get(pk=job.result["model_version"])
    assert (str(version), version.kind, version.base) == ("adder:1", "adapter", base)
    assert (job.recipe, job.result["rows"], job.result["validation_rows"]) == (recipe, 9, 3)
    assert version.config["objective"].items() >= objective.items()
    page = cast.page("teammate").get(f"/jobs/{job.pk}/").content.decode()
    told = cast.api("viewer").get(f"/api/v1/jobs/{job.pk}/metrics/").content.decode()
    for name in charted.split(","):
        assert name in page
        assert f'"{name}"' in told
    measured = ended(Job.objects.get(pk=job.result["evaluation_job"]))
    evaluation = Evaluation.objects.get(pk=measured.result["evaluation"])
    assert (evaluation.version, evaluation.data_version, evaluation.rows) == (version, held_out, 4)


@pytest.mark.full
def test_a_second_run_is_the_next_version(cast: Cast, job_file: dict[str, Any], base: ModelVersion) -> None:
    document = {**job_file, "hyperparameters": {**LEARNING, "max_steps": 1}}
    numbers = [trained(cast, document)[1].number for _ in range(2)]
    assert numbers == [1, 2]


@pytest.mark.full
def test_what_the_engine_refuses_is_said_in_its_words(cast: Cast, job_file: dict[str, Any], base: ModelVersion) -> None:
    wishes = {"method": {"type": "lora", "target_modules": ["no_such_layer"]}, "hyperparameters": LEARNING}
    job = run_to_end(finetunes.launch(parse({**job_file, **wishes}), by=cast.actor("teammate")))
    assert (job.state, job.failure_class) == ("failed", "user_error")
    assert "no_such_layer" in job.failure_message
    assert FineTune.objects.get(job=job).result_version is None
    assert not ModelVersion.objects.filter(origin="training").exists()


@pytest.mark.full
def test_everything_from_a_shell_without_a_worker(tiny_base: Path, tmp_path: Path) -> None:
    """A fresh installation: import, train and evaluate by commands only."""
    from project.testing import run_manage

    shutil.copytree(tiny_base, tmp_path / "models" / "tiny")
    env = {"DATA_PATH": str(tmp_path / "data"), "MODEL_DIR_ROOT": str(tmp_path / "models"), "JOB_BEAT": "0.5"}
    env |= {"DATABASE_URL": ""}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"say {n}", "completion": f"{n}"}) for n in range(12)))
    config = tmp_path / "job.yaml"
    wishes = {
        "name": "adder",
        "model": {"base_model": "tiny"},
        "data": {"dataset": "sums"},
        "hyperparameters": {**LEARNING, "max_steps": 3},
    }
    config.write_text(yaml.safe_dump(wishes))

    def manage(*arguments: str) -> Any:
        done = run_manage(*arguments, "--json", env=env, timeout=240)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run_manage("migrate", "-v", "0", env=env).returncode == 0
    person = "from project.kernel.models import User; User.objects.create_user('ann')"
    assert run_manage("shell", "-v", "0", "-c", person, env=env).returncode == 0
    manage("create_workspace", "Acme", "--owner", "ann")
    assert manage("import_model", "dir:tiny", "--name", "tiny", "--wait")["reference"] == "tiny:1"
    manage("import_dataset", str(rows), "--name", "sums", "--wait")
    bad = run_manage("train", "--config", str(config), "--workspace", "nowhere", env=env)
    assert (bad.returncode, bad.stderr.strip()) == (1, "CommandError: There is no workspace 'nowhere'.")
    made = manage("train", "--config", str(config), "--wait")
    assert (made["state"], made["reference"]) == ("succeeded", "adder:1")
    output = tmp_path / "results.json"
    measured = manage(
        "evaluate", "--model", "adder:1", "--data", "sums", "--metrics", "f1", "--limit", "3", "--output", str(output)
    )
    assert measured["rows"] == 3
    assert "learned these very rows" in measured["warnings"][0]
    written = json.loads(output.read_text())
    assert [row["row"] for row in written["answers"]] == sorted(row["row"] for row in written["answers"])
    assert written["scores"] == measured["scores"]
