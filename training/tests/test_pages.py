"""The pages: the launch form, a pasted job file, evaluations and two of them side by side."""

import re
from typing import Any

import pytest
import yaml
from django.test import Client

from datasets_app.models import DatasetVersion
from project.jobs.models import Job
from project.testing import Cast
from registry.models import ModelVersion
from training.engine.methods_registry import METHODS, in_order
from training.models import Evaluation, FineTune
from training.tests.conftest import MakeData, MakeEvaluation, conversations, pairs

NEW = "/training/new/"


def filled(page: Any, **changes: Any) -> dict[str, Any]:
    """What a browser posts: the form as it was shown, with some fields filled in."""
    form = page.context["form"]
    values = {name: form[name].value() for name in form.fields}
    shown = {name: value for name, value in values.items() if value not in (None, False)}
    return {**shown, **changes}


def open_form(client: Client, base: ModelVersion, data: DatasetVersion) -> Any:
    return client.get(NEW, {"base": str(base.pk), "data": str(data.pk)})


def test_the_form_is_complete_as_it_is_shown(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.page("teammate")
    page = client.get(NEW)
    assert page.status_code == 200
    answer = client.post(NEW, filled(page, name="adder", base_model=str(base.pk), dataset=str(data.pk)))
    fine_tune = FineTune.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == f"/jobs/{fine_tune.job_id}/"
    assert fine_tune.config["evaluation"]["metrics"] == ["exact_match", "f1", "perplexity"]
    assert fine_tune.job.params["validation_split"] == 0.1


def test_form_file_and_api_make_the_same_run(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.page("teammate")
    page = open_form(client, base, data)
    changes = {"name": "adder", "learning_rate": "3e-4", "target_modules": "q_proj, v_proj", "packing": "on"}
    client.post(NEW, filled(page, **changes))
    first = FineTune.objects.get()
    client.post(f"{NEW}file/", {"job_file": yaml.safe_dump(first.config)})
    cast.api("teammate").post("/api/v1/jobs/", first.config)
    assert FineTune.objects.count() == 3
    for other in FineTune.objects.all():
        assert other.config == first.config
        assert other.job.params == first.job.params
    assert first.config["method"]["target_modules"] == ["q_proj", "v_proj"]
    assert first.config["optimization"]["packing"] is True


@pytest.mark.parametrize("method", [method.name for method in in_order()])
def test_every_method_starts_from_the_form_as_it_is_shown(
    cast: Cast, base: ModelVersion, data: DatasetVersion, method: str
) -> None:
    client = cast.page("teammate")
    page = open_form(client, base, data)
    assert client.post(NEW, filled(page, name="adder", method=method)).status_code == 302
    fine_tune = FineTune.objects.get()
    assert fine_tune.config["method"] == fine_tune.job.params["method"]
    assert fine_tune.config["method"] == METHODS.get(method).Settings().model_dump(mode="json")
    again = client.get(NEW, {"from": str(fine_tune.job_id)})
    client.post(NEW, filled(again))
    assert FineTune.objects.exclude(pk=fine_tune.pk).get().config == fine_tune.config


def test_only_the_chosen_method_s_fields_count(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.page("teammate")
    page = open_form(client, base, data)
    changes = {"method": "prefix", "prefix_num_virtual_tokens": "7", "prefix_projection": "on", "r": "x", "bits": "4"}
    client.post(NEW, filled(page, name="adder", **changes))
    wanted = {"type": "prefix", "num_virtual_tokens": 7, "projection": True, "init": "words"}
    assert FineTune.objects.get().config["method"] == wanted
    client.post(NEW, filled(page, name="adder", method="lora", bits="4", dora="on", target_modules="q_proj"))
    method = FineTune.objects.order_by("-id")[0].job.params["method"]
    assert (method["bits"], method["dora"], method["target_modules"]) == (4, True, ["q_proj"])


def test_a_recipe_starts_from_the_form_with_its_own_fields(
    cast: Cast, base: ModelVersion, data: DatasetVersion, make_data: MakeData
) -> None:
    """The metrics that the form ticks for rows with answers do not stand in the way."""
    judged = make_data("judged", pairs(8))
    client = cast.page("teammate")
    changes = {"name": "better", "dataset": str(judged.pk), "recipe": "kto"}
    answer = client.post(NEW, filled(open_form(client, base, data), **changes))
    assert answer.status_code == 400 and "learns from unpaired rows" in answer.content.decode()
    changes |= {"recipe": "dpo", "dpo_beta": "-3"}
    answer = client.post(NEW, filled(open_form(client, base, data), **changes))
    assert answer.status_code == 400 and "greater than 0" in answer.content.decode()
    assert client.post(NEW, filled(open_form(client, base, data), **{**changes, "dpo_beta": "0.4"})).status_code == 302
    job = Job.objects.get()
    assert (job.recipe, job.params["beta"], job.params["method"]["type"]) == ("dpo", 0.4, "lora")
    assert FineTune.objects.get(job=job).config["evaluation"]["metrics"] == []
    again = client.get(f"{NEW}?from={job.pk}").content.decode()
    assert re.search(r'name="recipe" value="dpo"[^>]*checked', again) and 'value="0.4"' in again


def test_the_methods_and_where_each_can_answer(cast: Cast) -> None:
    page = cast.page("viewer").get("/training/methods/")
    text = page.content.decode()
    assert page.status_code == 200 and "QLoRA, 4 bits" in text and "Not with <code>packing</code>" in text
    found = {one["label"]: one for one in cast.api("viewer").get("/api/v1/jobs/methods/").json()}
    assert set(found) == {label for method in METHODS.all() for label in method.variants}
    assert found["Prompt tuning"]["targets"]["vllm"]["way"] == "no"
    assert found["DoRA"]["targets"]["vllm"]["way"] == "merged"
    assert "packing" in found["Prefix tuning"]["refuses"] and found["IA3"]["refuses"] == {}


def test_the_address_chooses_base_and_data(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    page = cast.page("teammate").get(NEW, {"base": "tiny", "data": "sums:1"})
    assert page.context["form"]["base_model"].value() == str(base.pk)
    assert page.context["form"]["dataset"].value() == str(data.pk)
    assert cast.page("teammate").get(NEW, {"base": "nobody", "data": "a b"}).status_code == 200


def test_an_earlier_fine_tune_is_a_start(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.page("teammate")
    client.post(NEW, filled(open_form(client, base, data), name="adder", method="full", epochs="9", metrics=["f1"]))
    first = FineTune.objects.get()
    page = client.get(NEW, {"from": str(first.job_id)})
    client.post(NEW, filled(page))
    second = FineTune.objects.exclude(pk=first.pk).get()
    assert second.config == first.config
    assert cast.page("stranger").get(NEW, {"from": str(first.job_id)}).status_code == 404
    assert client.get(NEW, {"from": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": ""}, "name", "Is required"),
        ({"base_model": ""}, "base_model", "Is required"),
        ({"base_model": "0198c0de-0000-7000-8000-000000000000"}, "base_model", "There is no model"),
        ({"dataset": ""}, "dataset", "Is required"),
        ({"learning_rate": "fast"}, "learning_rate", "Must be a number"),
        ({"learning_rate": "-1"}, "learning_rate", "Must be greater than 0"),
        ({"learning_rate": "1e400"}, "learning_rate", "Must be a finite number"),
        ({"epochs": "0"}, "epochs", "Must be greater than 0"),
        ({"batch_size": "2.5"}, "batch_size", "Must be a whole number"),
        ({"batch_size": "1" * 30}, "batch_size", "or less"),
        ({"r": "0"}, "r", "Must be 1 or more"),
        ({"max_seq_length": "4096"}, "max_seq_length", "Must be 512 or less, the context of tiny:1"),
        ({"method": "lorra"}, "method", "Did you mean"),
        ({"packing": "on", "method": "prompt"}, "packing", "Can't be combined with prompt: "),
        (
            {"gradient_checkpointing": "on", "method": "prefix"},
            "gradient_checkpointing",
            "Can't be combined with prefix",
        ),
        ({"prefix_num_virtual_tokens": "0", "method": "prefix"}, "prefix_num_virtual_tokens", "Must be 1 or more"),
        (
            {"prompt_num_virtual_tokens": "600", "method": "prompt"},
            "prompt_num_virtual_tokens",
            "Must be less than 512",
        ),
        ({"max_seq_length": "500", "method": "prompt"}, "max_seq_length", "Must be 492 or less"),
        ({"bits": "3"}, "bits", "Must be one of '4', '8'"),
        ({"bits": "4", "init": "pissa"}, "method", "Init pissa needs whole weights"),
        ({"recipe": "evaluate"}, "recipe", "Unknown recipe"),
        ({"optimizer": "adam"}, "optimizer", "Did you mean 'adamw'?"),
        ({"metrics": ["f2"]}, "metrics", "Did you mean 'f1'?"),
        ({"validation_split": ""}, "metrics", "Need rows that are not learned"),
        ({"target_modules": "q proj"}, "target_modules", "Must be 'all-linear'"),
        ({"model_name": "a/b"}, "model_name", "not a usable name"),
        ({"evaluate_every": "never"}, "evaluate_every", "Must be 'epoch'"),
        ({"time_limit": "0"}, "time_limit", "Must be 1 or more"),
        ({"memory_limit": "5"}, "memory_limit", "Must be 67,108,864 or more"),
        ({"priority": "101"}, "priority", "Must be 100 or less"),
    ],
)
def test_mistakes_are_shown_at_their_field(
    cast: Cast, base: ModelVersion, data: DatasetVersion, changes: dict[str, Any], field: str, words: str
) -> None:
    client = cast.page("teammate")
    answer = client.post(NEW, filled(open_form(client, base, data), **{"name": "adder", **changes}))
    assert answer.status_code == 400
    assert words in " ".join(answer.context["form"].errors[field]), answer.context["form"].errors
    assert not Job.objects.exists()
    value = next(iter(changes.values()))
    if (
        value
        and value != "on"
        and isinstance(value, str)
        and field in changes
        and field not in ("base_model", "method", "recipe")
    ):
        assert answer.context["form"][field].value() == value, "what was typed is kept"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "required"),
        ("name: [", "Not valid YAML"),
        ("hello", "is a mapping"),
        ("name: x\nmodel: {base_model: tiny}\ndata: {dataset: sums}\nrecipe: sff", "recipe: Unknown recipe"),
        ("name: x", "model: is required"),
    ],
)
def test_a_bad_job_file_says_what_is_wrong(
    cast: Cast, base: ModelVersion, data: DatasetVersion, text: str, words: str
) -> None:
    answer = cast.page("teammate").post(f"{NEW}file/", {"job_file": text})
    assert answer.status_code == 400
    assert words in answer.content.decode().replace("&#x27;", "'")
    assert not Job.objects.exists()


def test_a_draft_can_be_saved(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.page("teammate")
    client.post(NEW, filled(open_form(client, base, data), name="adder", draft="1"))
    assert Job.objects.get().state == "draft"


def test_who_may_launch_and_what_they_are_offered(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    viewer = cast.page("viewer")
    assert viewer.post(NEW, filled(open_form(viewer, base, data), name="adder")).status_code == 403
    offered = cast.page("stranger").get(NEW)
    assert "tiny" not in offered.content.decode()
    assert "sums" not in offered.content.decode()
    assert Client().get(NEW).status_code == 302
    assert not Job.objects.exists()


def test_an_evaluation_from_its_form(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    client = cast.page("teammate")
    page = client.get("/evaluations/new/", {"version": str(base.pk)})
    assert page.context["form"]["model_version"].value() == str(base.pk)
    answer = client.post("/evaluations/new/", filled(page, dataset_version=str(data.pk), limit="5"))
    evaluation = Evaluation.objects.get()
    assert answer["Location"] == f"/evaluations/{evaluation.pk}/"
    assert (evaluation.limit, evaluation.job.params["limit"]) == (5, 5)
    shown = client.get(answer["Location"]).content.decode()
    assert "data-live-job" in shown
    for changes, field in (
        ({"model_version": ""}, "model_version"),
        ({"dataset_version": "none"}, "dataset_version"),
        ({"limit": "few"}, "limit"),
        ({"limit": "0"}, "limit"),
        ({"limit": "9" * 30}, "limit"),
        ({"metrics": []}, "metrics"),
    ):
        bad = client.post("/evaluations/new/", filled(page, **{"dataset_version": str(data.pk), **changes}))
        assert (bad.status_code, list(bad.context["form"].errors)) == (400, [field]), changes
    assert Evaluation.objects.count() == 1


def test_the_page_of_an_evaluation(cast: Cast, make_evaluation: MakeEvaluation) -> None:
    pairs = [(str(n), str(n) if n % 3 else "<b>?</b>") for n in range(60)]
    evaluation = make_evaluation(pairs)
    client = cast.page("viewer")
    url = f"/evaluations/{evaluation.pk}/"
    page = client.get(url)
    text = page.content.decode()
    assert "66.7%" in text
    assert "&lt;b&gt;?&lt;/b&gt;" in text
    assert len(page.context["page"]) == 25
    wrong = client.get(url, {"verdict": "wrong"})
    assert wrong.context["page"].paginator.count == 20
    assert len(client.get(url, {"page": "3"}).context["page"]) == 10
    assert client.get(url, {"page": "999"}).context["page"].number == 3
    assert client.get(url, {"page": "x", "verdict": "y", "search": "question 60"}).context["page"].paginator.count == 1
    assert cast.page("stranger").get(url).status_code == 404


def test_learned_rows_are_marked_loudly(
    cast: Cast, base: ModelVersion, data: DatasetVersion, make_evaluation: MakeEvaluation
) -> None:
    ModelVersion.objects.filter(pk=base.pk).update(data_digest=data.digest)
    base.refresh_from_db()
    evaluation = make_evaluation([("a", "a")], version=base)
    client = cast.page("viewer")
    assert "It has seen these rows" in client.get(f"/evaluations/{evaluation.pk}/").content.decode()
    assert "learned rows" in client.get("/evaluations/").content.decode()


def test_the_list_searches_and_leads_to_comparisons(
    cast: Cast, make_evaluation: MakeEvaluation, make_data: MakeData, django_assert_max_num_queries: Any
) -> None:
    client = cast.page("viewer")
    assert "No evaluations yet" in client.get("/evaluations/").content.decode()
    first, second = make_evaluation([("a", "a"), ("b", "b")]), make_evaluation([("a", "a"), ("b", "?")])
    make_evaluation([("a", "a")], data=make_data("others", conversations(3, start=50)))
    with django_assert_max_num_queries(12):
        assert len(client.get("/evaluations/").context["page"]) == 3
    assert len(client.get("/evaluations/", {"search": "other"}).context["page"]) == 1
    assert len(client.get("/evaluations/", {"search": "tin"}).context["page"]) == 3
    assert "Nothing found" in client.get("/evaluations/", {"search": "zzz"}).content.decode()
    compared = client.get("/evaluations/compare/", {"evaluations": [str(first.pk), str(second.pk)]})
    assert compared.status_code == 200
    assert [pair.change for pair in compared.context["page"]] == ["same", "worse"]
    query = {"evaluations": f"{first.pk},{second.pk}", "change": "worse"}
    assert [pair.row for pair in client.get("/evaluations/compare/", query).context["page"]] == [2]


def test_comparisons_that_cannot_be_made(cast: Cast, make_evaluation: MakeEvaluation, make_data: MakeData) -> None:
    first = make_evaluation([("a", "a")])
    other = make_evaluation([("a", "a")], data=make_data("others", conversations(3, start=50)))
    client = cast.page("viewer")
    for names, words in (
        ([], "Name two different evaluations"),
        ([str(first.pk)], "Name two different evaluations"),
        ([str(first.pk), "x"], "by its id"),
        ([str(first.pk), str(other.pk)], "about different rows"),
    ):
        answer = client.get("/evaluations/compare/", {"evaluations": names})
        assert answer.status_code == 400
        assert words in answer.content.decode()
    names = [str(first.pk), str(other.pk)]
    assert cast.page("stranger").get("/evaluations/compare/", {"evaluations": names}).status_code == 404


def test_the_registry_s_comparison_shows_answers(
    cast: Cast, base: ModelVersion, make_evaluation: MakeEvaluation
) -> None:
    from registry import comparison
    from registry.actions import versions

    by = cast.actor("owner")
    second = versions.register(base.model, artifact=base.artifact, kind="full", by=by, facts=base.facts)
    make_evaluation([("a", "a"), ("b", "b")], version=base)
    make_evaluation([("a", "a"), ("b", "?")], version=second)
    found = comparison.compare([base, second]).answers
    assert [row["answers"] for row in found] == [["b", "?"], ["a", "a"]]
    assert found[0]["prompt"] == "question 2"


def test_a_job_s_page_links_to_what_it_works_on(
    cast: Cast, base: ModelVersion, data: DatasetVersion, make_evaluation: MakeEvaluation
) -> None:
    client = cast.page("teammate")
    client.post(NEW, filled(open_form(client, base, data), name="adder"))
    job = FineTune.objects.get().job
    page = client.get(f"/jobs/{job.pk}/").content.decode()
    for link in (f"/model-versions/{base.pk}/", f"/training/new/?from={job.pk}", "sums:1", "tiny:1"):
        assert link in page
    evaluation = make_evaluation([("a", "a")])
    assert f"/evaluations/{evaluation.pk}/" in client.get(f"/jobs/{evaluation.job_id}/").content.decode()


def test_the_admin_lists_both_and_edits_neither(
    cast: Cast, base: ModelVersion, data: DatasetVersion, make_evaluation: MakeEvaluation
) -> None:
    evaluation = make_evaluation([("a", "a"), ("b", "?")])
    client = cast.page("teammate")
    client.post(NEW, filled(open_form(client, base, data), name="adder"))
    staff = cast.page("operator")
    cast.operator.is_staff = cast.operator.is_superuser = True
    cast.operator.save()
    fine_tune = FineTune.objects.get()
    assert "adder" in staff.get("/admin/training/finetune/").content.decode()
    assert "exact_match 0.5" in staff.get("/admin/training/evaluation/").content.decode()
    for path in (f"finetune/{fine_tune.pk}", f"evaluation/{evaluation.pk}"):
        assert staff.get(f"/admin/training/{path}/change/").status_code == 200
        assert staff.post(f"/admin/training/{path}/delete/", {"post": "yes"}).status_code == 403
    assert staff.get("/admin/training/finetune/", {"q": "add"}).status_code == 200
