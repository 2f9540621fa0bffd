"""Launching a fine-tune: what is refused, and what is written when nothing is."""

from typing import Any

import pytest
from django.db.models.functions import Now

from datasets_app.actions import blocks
from datasets_app.models import DatasetVersion
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import edges
from project.kernel.errors import Forbidden, Invalid
from project.kernel.models import AuditEntry, Edge
from project.testing import Cast
from registry.models import ModelVersion
from training.actions import finetunes
from training.jobfile import parse
from training.models import FineTune
from training.tests.conftest import MakeData, completions, conversations, pairs, prompts, texts, thumbs

JobDocument = dict[str, Any]


def launch(cast: Cast, document: JobDocument, who: str = "teammate", **changes: Any) -> Job:
    return finetunes.launch(parse({**document, **changes}), by=cast.actor(who))


def refused(cast: Cast, document: JobDocument, **changes: Any) -> dict[str, list[str]]:
    """What was wrong; and nothing was written."""
    before = [model.objects.count() for model in (Job, FineTune, AuditEntry, Edge)]
    with pytest.raises(Invalid) as caught:
        launch(cast, document, **changes)
    assert [model.objects.count() for model in (Job, FineTune, AuditEntry, Edge)] == before
    return caught.value.errors


def test_a_launch_settles_everything(
    cast: Cast, job_file: JobDocument, base: ModelVersion, data: DatasetVersion, settings: Any
) -> None:
    settings.LORA_R, settings.DEFAULT_EPOCHS = 32, 7.0
    job = launch(cast, job_file)
    fine_tune = FineTune.objects.get(job=job)
    assert (fine_tune.base_version, fine_tune.data_version, fine_tune.model_name) == (base, data, "adder")
    assert fine_tune.config["model"]["base_model"] == str(base.pk)
    assert fine_tune.config["data"]["dataset"] == str(data.pk)
    assert job.params["method"]["r"] == fine_tune.config["method"]["r"] == 32
    assert job.params["epochs"] == 7
    assert job.params["max_seq_length"] == base.facts["context"]
    assert job.inputs == {"base": {"artifact": str(base.artifact_id)}, "data": {"artifact": str(data.artifact_id)}}
    assert (job.state, job.queue, job.title) == ("queued", "gpu", "adder")
    assert (job.subject_kind, job.subject_id) == ("finetune", str(fine_tune.pk))
    assert {edge.source_kind for edge in edges.upstream(job)} == {"modelversion", "datasetversion"}


def test_a_stored_config_starts_the_same_run_again(cast: Cast, job_file: JobDocument) -> None:
    first = launch(cast, job_file, hyperparameters={"learning_rate": 3e-4}, method={"type": "full"})
    again = launch(cast, FineTune.objects.get(job=first).config)
    assert again.params == first.params
    assert again.inputs == first.inputs


def test_a_draft_waits_for_its_start(cast: Cast, job_file: JobDocument) -> None:
    job = finetunes.launch(parse(job_file), by=cast.actor("teammate"), start=False)
    assert job.state == "draft"
    assert jobs.start(job, cast.actor("teammate")).state == "queued"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"recipe": "sftt"}, "recipe", "Did you mean 'sft'?"),
        ({"recipe": "evaluate"}, "recipe", "Unknown recipe"),
        ({"model": {"base_model": "tony"}}, "model.base_model", "Did you mean 'tiny'?"),
        ({"model": {"base_model": "tiny:9"}}, "model.base_model", "no version 9"),
        ({"model": {"base_model": "tiny@staging"}}, "model.base_model", "no version in stage 'staging'"),
        ({"model": {"base_model": "a b"}}, "model.base_model", "not a reference"),
        ({"model": {"base_model": "tiny", "name": "a/b"}}, "model.name", "not a usable name"),
        ({"name": "???"}, "model.name", "not a usable name"),
        ({"data": {"dataset": "sum"}}, "data.dataset", "Did you mean 'sums'?"),
        ({"data": {"dataset": "sums:4"}}, "data.dataset", "no version 4"),
        ({"evaluation": {"metrics": ["roug", "f1"], "dataset": "sums"}}, "evaluation.metrics", "Unknown metric 'roug'"),
        ({"evaluation": {"metrics": ["f11"], "dataset": "sums"}}, "evaluation.metrics", "Did you mean 'f1'?"),
        ({"evaluation": {"metrics": ["f1"]}}, "evaluation.metrics", "need rows that are not learned"),
        ({"hyperparameters": {"max_seq_length": 513}}, "hyperparameters.max_seq_length", "must be 512 or less"),
        ({"optimization": {"save_best_model": True}}, "optimization.save_best_model", "needs validation rows"),
        (
            {"optimization": {"early_stopping": {"enabled": True}}},
            "optimization.early_stopping.enabled",
            "needs validation rows",
        ),
        (
            {"data": {"dataset": "sums", "validation_split": 0.1, "validation_dataset": "sums"}},
            "data.validation_split",
            "not both",
        ),
        ({"objective": {"beta": 1}}, "objective.beta", "no parameters of its own"),
        ({"deployment": {"health_check_enabled": False}}, "deployment.health_check_enabled", "must be true"),
    ],
)
def test_what_cannot_work_is_refused_at_its_field(
    cast: Cast, job_file: JobDocument, changes: JobDocument, field: str, words: str
) -> None:
    errors = refused(cast, job_file, **changes)
    assert list(errors) == [field]
    assert words in " ".join(errors[field])


def test_everything_wrong_is_said_at_once(cast: Cast, job_file: JobDocument) -> None:
    changes = {"recipe": "ppx", "model": {"base_model": "nobody"}, "evaluation": {"metrics": ["x"], "dataset": "none"}}
    errors = refused(cast, job_file, **changes)
    assert set(errors) == {"model.base_model", "recipe", "evaluation.metrics", "evaluation.dataset"}


def test_rows_of_another_kind_are_refused(cast: Cast, job_file: JobDocument, make_data: MakeData) -> None:
    make_data("questions", prompts(5))
    errors = refused(cast, job_file, data={"dataset": "questions"})
    assert "has prompt rows; recipe 'sft' learns from chat or completion rows" in errors["data.dataset"][0]
    errors = refused(cast, job_file, evaluation={"metrics": ["f1"], "dataset": "questions"})
    assert "only chat or completion rows can be asked" in errors["evaluation.dataset"][0]


def test_a_base_without_template_learns_completions_but_no_conversations(
    cast: Cast, job_file: JobDocument, speechless: ModelVersion, make_data: MakeData
) -> None:
    errors = refused(cast, job_file, model={"base_model": "plain"})
    assert "has no chat template" in errors["model.base_model"][0]
    make_data("pairs", completions(5))
    assert launch(cast, job_file, model={"base_model": "plain"}, data={"dataset": "pairs"}).state == "queued"


@pytest.mark.parametrize(("recipe", "rows"), [("dpo", pairs), ("orpo", pairs), ("kto", thumbs)])
def test_judged_answers_are_conversations_too(
    cast: Cast, job_file: JobDocument, speechless: ModelVersion, make_data: MakeData, recipe: str, rows: Any
) -> None:
    make_data("judged", rows(5))
    wishes = {"recipe": recipe, "data": {"dataset": "judged"}}
    errors = refused(cast, job_file, model={"base_model": "plain"}, **wishes)
    assert "has no chat template" in errors["model.base_model"][0]
    assert launch(cast, job_file, **wishes).state == "queued"


def test_an_installation_that_prefers_single_rows_compares_two(
    cast: Cast, job_file: JobDocument, make_data: MakeData, settings: Any
) -> None:
    settings.DEFAULT_BATCH_SIZE = 1
    make_data("judged", thumbs(5))
    wishes = {"recipe": "kto", "data": {"dataset": "judged"}}
    assert launch(cast, job_file, **wishes).params["batch_size"] == 2
    wished = {"hyperparameters": {"batch_size": 1}}
    assert "hyperparameters.batch_size" in refused(cast, job_file, **wishes, **wished)
    assert launch(cast, job_file).params["batch_size"] == 1


def test_a_base_without_template_goes_on_with_texts(
    cast: Cast, job_file: JobDocument, speechless: ModelVersion, make_data: MakeData
) -> None:
    make_data("texts", texts(5))
    wishes = {"recipe": "pretrain", "data": {"dataset": "texts"}, "model": {"base_model": "plain"}}
    assert launch(cast, job_file, **wishes).state == "queued"


@pytest.mark.parametrize("value", [True, "much", float("nan")])
def test_a_recipe_s_own_numbers_are_numbers(cast: Cast, job_file: JobDocument, make_data: MakeData, value: Any) -> None:
    make_data("judged", pairs(5))
    wishes = {"recipe": "dpo", "data": {"dataset": "judged"}}
    assert "objective.beta" in refused(cast, job_file, **wishes, objective={"beta": value})


def test_data_that_is_not_ready_is_refused(cast: Cast, job_file: JobDocument, data: DatasetVersion) -> None:
    DatasetVersion.objects.filter(pk=data.pk).update(state="importing")
    assert "still being imported" in refused(cast, job_file)["data.dataset"][0]


def test_data_with_fatal_findings_is_refused_until_an_operator_lifts_the_block(
    cast: Cast, job_file: JobDocument, data: DatasetVersion
) -> None:
    finding = {"severity": "error", "title": "One row holds a key or a token"}
    DatasetVersion.objects.filter(pk=data.pk).update(blocked=True, report={**data.report, "findings": [finding]})
    (reason,) = refused(cast, job_file)["data.dataset"]
    assert "can't be trained on: One row holds a key or a token" in reason and "operator" in reason
    blocks.lift(DatasetVersion.objects.get(pk=data.pk), "The manual's example.", by=cast.actor("operator"))
    assert launch(cast, job_file).state == "queued"


def test_an_adapter_is_no_base(cast: Cast, job_file: JobDocument, base: ModelVersion) -> None:
    from registry.actions import models, versions

    by = cast.actor("owner")
    model = models.create(by.workspace, "tuned", by=by)
    versions.register(model, artifact=base.artifact, kind="adapter", base=base, by=by)
    assert "is an adapter" in refused(cast, job_file, model={"base_model": "tuned:1"})["model.base_model"][0]


def test_another_workspace_s_model_and_data_do_not_exist(
    cast: Cast, job_file: JobDocument, base: ModelVersion, data: DatasetVersion
) -> None:
    ids = {"model": {"base_model": str(base.pk)}, "data": {"dataset": str(data.pk)}}
    with pytest.raises(Invalid) as caught:
        launch(cast, job_file, who="stranger", **ids)
    assert set(caught.value.errors) == {"model.base_model", "data.dataset"}
    assert "tiny" not in caught.value.detail


def test_a_viewer_may_not_and_auto_deploy_needs_an_operator(cast: Cast, job_file: JobDocument) -> None:
    with pytest.raises(Forbidden):
        launch(cast, job_file, who="viewer")
    with pytest.raises(Forbidden):
        launch(cast, job_file, deployment={"auto_deploy": True})
    assert launch(cast, job_file, who="operator", deployment={"auto_deploy": True}).state == "queued"


def test_a_retry_is_a_fine_tune_of_its_own(cast: Cast, job_file: JobDocument) -> None:
    by = cast.actor("teammate")
    job = jobs.cancel(launch(cast, job_file), by)
    again = jobs.retry(job, by)
    first, second = FineTune.objects.get(job=job), FineTune.objects.get(job=again)
    assert first.config == second.config
    assert again.subject_id == str(second.pk)


def test_a_retry_with_a_remedy_says_so_in_its_job_file(cast: Cast, job_file: JobDocument) -> None:
    by = cast.actor("teammate")
    assert list(refused(cast, job_file, limits={"priority": 1})) == ["limits.priority"]
    job = launch(cast, job_file, method={"type": "full"}, limits={"time_limit": 3600, "priority": -1})
    assert (job.time_limit, job.priority) == (3600, -1)
    Job.objects.filter(pk=job.pk).update(state="failed", finished_at=Now(), failure_class="device_memory")
    again = jobs.retry(Job.objects.get(pk=job.pk), by, remedy="lora")
    config = FineTune.objects.get(job=again).config
    assert config["method"]["type"] == again.params["method"]["type"] == "lora"
    assert again.time_limit == 3600
    shorter = jobs.retry(Job.objects.get(pk=job.pk), by, remedy="shorter-sequences")
    config = FineTune.objects.get(job=shorter).config
    assert config["hyperparameters"]["max_seq_length"] == shorter.params["max_seq_length"]
    assert parse(config).hyperparameters.max_seq_length == job.params["max_seq_length"] // 2


def test_a_version_s_number_can_be_named(cast: Cast, job_file: JobDocument, make_data: MakeData) -> None:
    older = job_file["data"]["dataset"]
    newer = make_data("sums", conversations(4))
    assert FineTune.objects.get(job=launch(cast, job_file)).data_version == newer
    named = FineTune.objects.get(job=launch(cast, job_file, data={"dataset": f"{older}:1"}))
    assert named.data_version.number == 1


def test_a_recipe_of_its_own_gets_its_own_settings(cast: Cast, job_file: JobDocument, make_data: MakeData) -> None:
    make_data("judged", pairs(8))
    document = {**job_file, "data": {"dataset": "judged"}, "evaluation": {}, "recipe": "dpo"}
    job = launch(cast, document, objective={"beta": 0.3, "loss": "ipo"})
    assert (job.recipe, job.params["beta"], job.params["loss"], job.params["label_smoothing"]) == ("dpo", 0.3, "ipo", 0)
    assert job.params["learning_rate"] == pytest.approx(2e-5)  # a tenth of supervised fine-tuning's
    typed = launch(cast, document, objective={"beta": "0.3", "loss": "ipo"})  # as forms send it
    for one in (job, typed):
        own = FineTune.objects.get(job=one).config["objective"]
        assert own == {"beta": 0.3, "loss": "ipo", "label_smoothing": 0.0}
    assert refused(cast, document, objective={"gamma": 1}) == {
        "objective.gamma": ["Unknown field. Known: beta, loss, label_smoothing."]
    }
    assert "objective.beta" in refused(cast, document, objective={"beta": -1})
    assert "optimization.packing" in refused(cast, document, optimization={"packing": True})
    [message] = refused(cast, {**document, "recipe": "sft"})["data.dataset"]
    assert "has preference rows; recipe 'sft' learns from chat or completion rows" in message
    split = {"dataset": "judged", "validation_split": 0.25}
    [message] = refused(cast, document, data=split, evaluation={"metrics": ["f1"]})["evaluation.metrics"]
    assert "can't be measured on preference rows" in message
