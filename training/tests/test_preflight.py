"""Preflights over the API, on their pages and from a shell."""

from typing import Any

import pytest
from django.urls import reverse

from datasets_app.models import DatasetVersion
from project.contracts.chat import Message
from project.contracts.rows import ChatRow
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.kernel.models import Artifact
from project.testing import Cast
from registry.models import ModelVersion
from training.models import Preflight
from training.tests.conftest import MakeData, conversations


def url_of(data: DatasetVersion) -> str:
    return f"/api/v1/dataset-versions/{data.pk}/preflight/"


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "base", "required"),
        ({"base": "tinny"}, "base", "Did you mean 'tiny'?"),
        ({"base": "tiny", "max_seq_length": 4}, "max_seq_length", "16"),
        ({"base": "tiny", "max_seq_length": 100_000}, "max_seq_length", "the context of tiny:1"),
        ({"base": "tiny", "max_seq_length": "long"}, "max_seq_length", "integer"),
        ({"base": "tiny", "length": 64}, "length", "Unknown field"),
    ],
)
def test_bad_input_names_the_field(
    cast: Cast, base: ModelVersion, data: DatasetVersion, body: dict[str, Any], field: str, words: str
) -> None:
    answer = cast.api("teammate").post(url_of(data), body)
    assert answer.status_code == 400
    assert words in " ".join(answer.json()["errors"][field])
    assert not Job.objects.exists()


def test_a_model_that_can_not_read_conversations_is_refused(
    cast: Cast, speechless: ModelVersion, data: DatasetVersion
) -> None:
    answer = cast.api("teammate").post(url_of(data), {"base": str(speechless.pk)})
    assert answer.status_code == 400 and "no chat template" in str(answer.json()["errors"]["base"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_version": ""}, "Choose one of the list."),
        ({"base": "nothing"}, "There is no model"),
        ({"max_seq_length": "x"}, "ust be a whole number"),
        ({"max_seq_length": "9" * 12}, "ust be a whole number"),
        ({"max_seq_length": "4096"}, "the context of tiny:1"),
    ],
)
def test_mistakes_in_the_form_are_said(
    cast: Cast, base: ModelVersion, data: DatasetVersion, changes: dict[str, str], words: str
) -> None:
    body = {"dataset_version": str(data.pk), "base": str(base.pk), "max_seq_length": "64"}
    answer = cast.page("teammate").post(reverse("preflight-new"), {**body, **changes})
    assert answer.status_code == 400 and words in answer.content.decode()
    assert not Job.objects.exists()


def test_from_the_form_to_the_coloured_rows(cast: Cast, base: ModelVersion, make_data: MakeData) -> None:
    long = (Message(role="user", content="say much"), Message(role="assistant", content="word " * 100))
    data = make_data("mixed", [*conversations(3), ChatRow(messages=long)])
    page, new = cast.page("teammate"), reverse("preflight-new")
    assert f'value="{data.pk}" selected' in page.get(f"{new}?data={data.pk}").content.decode()
    assert cast.page("viewer").get(new).status_code == 403
    form = {"dataset": str(data.pk), "base_model": str(base.pk), "max_seq_length": "96", "name": "adder", "r": "8"}
    assert "See first what would be learned" in page.get(reverse("training-new")).content.decode()
    answer = page.post(new, {**form, "of_fine_tune": "1"})
    found = Preflight.objects.get()
    address = found.get_absolute_url()
    assert answer.headers["Location"] == address
    assert page.get(address).status_code == 200  # before it has run
    api = cast.api("viewer")
    assert api.get(f"/api/v1/preflights/{found.pk}/rows/").status_code == 409

    job = run_to_end(found.job)
    assert job.state == "succeeded", job.failure_message
    assert (job.result["preflight"], job.result["lost_rows"]) == (str(found.pk), 0)
    html = cast.page("viewer").get(f"{address}?flag=cut_answer").content.decode()
    assert "Row 4" in html and "Row 1<" not in html and "token-lost" in html and "token-learned" in html
    assert "No such row is kept" in page.get(f"{address}?row=999").content.decode()
    assert cast.page("stranger").get(address).status_code == 404

    asked = {"base": "tiny", "max_seq_length": 96}
    assert cast.api("teammate").post(url_of(data), asked).json()["id"] == str(found.pk)  # not made twice
    assert cast.api("viewer").post(url_of(data), asked).status_code == 403
    body = api.get(f"{url_of(data)}?base=tiny").json()
    assert (body["id"], body["state"], body["result"]["flags"]["cut_answer"]) == (str(found.pk), "succeeded", 1)
    assert api.get(f"{url_of(data)}?base=tiny&max_seq_length=99").status_code == 404
    assert list(api.get(url_of(data)).json()["errors"]) == ["base"]
    rows = api.get(f"/api/v1/preflights/{found.pk}/rows/?flag=cut_answer&limit=5").json()
    assert [row["row"] for row in rows["results"]] == [4] and rows["count"] == 1
    assert list(api.get(f"/api/v1/preflights/{found.pk}/rows/?flag=x").json()["errors"]) == ["flag"]
    assert list(api.get(f"/api/v1/preflights/{found.pk}/rows/?row=x").json()["errors"]) == ["row"]
    assert cast.api("stranger").get(f"/api/v1/preflights/{found.pk}/").status_code == 404
    assert "What would be learned" in page.get(job.get_absolute_url()).content.decode()

    found.refresh_from_db()
    views = found.views
    assert views is not None
    assert cast.api("owner").delete(f"/api/v1/datasets/{data.dataset_id}/").status_code == 204
    assert not Preflight.objects.exists() and not Artifact.objects.filter(pk=views.pk).exists()
    retry = cast.api("teammate").post(f"/api/v1/jobs/{job.pk}/retry/", {})
    assert retry.status_code == 409 and "deleted" in retry.json()["detail"]


def test_data_that_is_being_looked_at_is_not_deleted(cast: Cast, base: ModelVersion, data: DatasetVersion) -> None:
    cast.api("teammate").post(url_of(data), {"base": "tiny"})
    answer = cast.api("owner").delete(f"/api/v1/datasets/{data.dataset_id}/")
    assert answer.status_code == 409 and "being looked at" in answer.json()["detail"]
    assert Preflight.objects.exists()


@pytest.mark.parametrize("field", ["base", "dataset_version", "max_seq_length"])
def test_a_nul_is_a_mistake_too(cast: Cast, base: ModelVersion, data: DatasetVersion, field: str) -> None:
    body = {"dataset_version": str(data.pk), "base": str(base.pk), "max_seq_length": "64", field: "\x00"}
    assert cast.page("teammate").post(reverse("preflight-new"), body).status_code == 400
