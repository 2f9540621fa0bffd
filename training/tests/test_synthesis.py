"""Synthetic data as people ask for it: over the API, from a shell, from the page; by an endpoint or a model of ours."""

import json
import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from datasets_app.models import DatasetVersion
from datasets_app.preparing import parse
from datasets_app.storage import entries
from datasets_app.testing import ready_version
from project.jobs.models import Job, Metric
from project.jobs.testing import run_to_end
from project.kernel import artifacts, edges
from project.kernel.actions import endpoints
from project.kernel.models import AuditEntry, Edge, Endpoint
from project.modeling.tests.chat_server import ChatServer, chat_server
from project.testing import Cast
from registry.models import ModelVersion

PATH = "/api/v1/synthetic-data/"
TOKEN = "sk-written-with-0123456789"


@pytest.fixture
def server(settings: Any) -> Iterator[ChatServer]:
    settings.OUTGOING_ALLOW = ["127.0.0.1"]
    with chat_server(lambda body: f"About {body['messages'][-1]['content']}", token=TOKEN) as running:
        yield running


@pytest.fixture
def lab(cast: Cast, server: ChatServer) -> Endpoint:
    return endpoints.create(name="lab", url=server.url, model="tiny", token=TOKEN, by=cast.actor("operator"))


def body(**more: Any) -> dict[str, Any]:
    return {
        "to": "facts",
        "endpoint": "lab",
        "template_prompts": ["Say {what}"],
        "values": {"what": ["one", "two", "three"]},
        "generation_config": {"num_samples": 3, "temperature": 0.2, "max_tokens": 40, "quality_filter": True},
        "output_format": "chat",
        **more,
    }


def finished(answer: Any) -> tuple[DatasetVersion, Job]:
    assert answer.status_code == 201, answer.content
    job = run_to_end(Job.objects.get(pk=answer.json()["job"]))
    return DatasetVersion.objects.select_related("dataset").get(pk=answer.json()["version"]), job


def test_an_endpoint_writes_a_version(cast: Cast, lab: Endpoint, server: ChatServer) -> None:
    version, job = finished(cast.api("teammate").post(PATH, body()))
    assert (job.state, job.failure_message) == ("succeeded", "")
    assert (str(version), version.state, version.rows, version.synthetic_rows) == ("facts:1", "ready", 3, 3)
    assert job.inputs == {"writer": {"endpoint": str(lab.pk)}}
    assert job.result["accepted"] == 3
    assert set(Metric.objects.filter(job=job).values_list("key", flat=True)) >= {"accepted", "rejected"}
    assert version.report["generation"]["model"] == "lab (tiny)"
    assert AuditEntry.objects.filter(verb="dataset.version_ready", object_id=str(version.pk)).exists()
    assert Edge.objects.filter(relation="wrote", target_id=str(version.pk)).exists()
    for path in job.run_folder(1).rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    page = cast.page("viewer").get(version.get_absolute_url())
    assert b"3 accepted" in page.content
    assert server.bodies[0]["max_tokens"] == 40


def test_who_may_and_what_is_said(cast: Cast, lab: Endpoint) -> None:
    assert cast.api("viewer").post(PATH, body()).status_code == 403
    theirs = cast.api("stranger").post(PATH, body())
    assert theirs.status_code == 400
    assert "endpoint" in theirs.json()["errors"]
    editor = cast.api("teammate")
    for change, field in (
        ({"model": "x"}, "model"),
        ({"endpoint": ""}, "model"),
        ({"endpoint": "nobody"}, "endpoint"),
        ({"endpoint": "", "model": "nobody"}, "model"),
        ({"template_prompts": []}, "template_prompts"),
        ({"documents": "x"}, "template_prompts"),
        ({"template_prompts": [], "values": {}, "seeds": "nothing"}, "seeds"),
        ({"values": {}}, "template_prompts"),
        ({"to": "a b"}, "to"),
        ({"generation_config": {"num_samples": -1}}, "generation_config.num_samples"),
        ({"generation_config": {"temprature": 1}}, "generation_config.temprature"),
        ({"generation_config": {"max_tokens": "many"}}, "generation_config.max_tokens"),
        ({"output_format": "xml"}, "output_format"),
        ({"prompts": []}, "prompts"),
    ):
        answer = editor.post(PATH, body(**change))
        assert answer.status_code == 400, (change, answer.content)
        assert field in answer.json()["errors"], (change, answer.json())
    assert not DatasetVersion.objects.exists()


def test_a_wrong_token_fails_the_version_in_words(cast: Cast, lab: Endpoint, server: ChatServer) -> None:
    server.token = "changed"
    version, job = finished(cast.api("teammate").post(PATH, body()))
    assert (job.state, job.failure_class, job.failure_field) == ("failed", "user_error", "endpoint")
    assert version.state == "failed"
    assert "refuses the token" in version.failure
    assert TOKEN not in version.failure


@pytest.mark.full
def test_a_killed_engine_goes_on_with_what_was_written(cast: Cast, lab: Endpoint, server: ChatServer) -> None:
    killed: list[int] = []

    given = body(values={"what": [f"number {n}" for n in range(12)]})
    given["generation_config"] = {"num_samples": 12, "concurrency": 1}
    answer_to = cast.api("teammate").post(PATH, given)
    job = Job.objects.get(pk=answer_to.json()["job"])
    folder = job.run_folder(1)

    def kill_in_time(asked: dict[str, Any]) -> str:
        if len(server.bodies) == 6 and not killed:
            killed.append(json.loads((folder / "engine.json").read_text())["pid"])
            os.kill(killed[0], signal.SIGKILL)
        return f"About {asked['messages'][-1]['content']}"

    server.answer = kill_in_time
    version, job = finished(answer_to)
    assert (job.state, job.attempt, version.rows) == ("succeeded", 2, 12)
    assert len(server.bodies) == 13  # five were kept, the sixth died with its engine
    values = Metric.objects.filter(job=job, key="accepted").order_by("step").values_list("step", "value")
    steps = [step for step, _ in values]
    assert steps == sorted(set(steps))  # none twice
    assert set(steps) >= {1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12}
    assert all(value == step for step, value in values)


@pytest.mark.full
def test_a_registered_model_writes(cast: Cast, base: ModelVersion) -> None:
    given = body(endpoint="", model="tiny")
    given["generation_config"] = {"num_samples": 3, "max_tokens": 8, "quality_filter": False}
    version, job = finished(cast.api("teammate").post(PATH, given))
    assert (job.state, job.failure_message) == ("succeeded", "")
    assert (job.queue, version.synthetic_rows) == ("gpu", 3)
    assert version.report["generation"]["model"] == "tiny:1"


def test_copies_in_other_words_never_of_held_out_rows(cast: Cast, lab: Endpoint, server: ChatServer) -> None:
    server.answer = lambda asked: "Where on earth is my parcel now?"
    source = ready_version(
        cast.actor("teammate"), "tickets", [{"prompt": "Where is my parcel?", "completion": "Here."}]
    )
    version, job = finished(
        cast.api("teammate").post(f"{PATH}augment/", {"dataset": "tickets", "endpoint": "lab", "method": "paraphrase"})
    )
    assert (job.state, job.failure_message) == ("succeeded", "")
    assert (str(version), version.parent, version.rows, version.synthetic_rows) == ("tickets:2", source, 2, 1)
    assert version.artifact
    assert [row.value["prompt"] for row in entries(artifacts.local_path(version.artifact))] == [
        "Where is my parcel?",
        "Where on earth is my parcel now?",
    ]
    split = parse([{"type": "split", "parts": {"train": 0.5, "test": 0.5}}])  # as `prepare` stores it
    DatasetVersion.objects.filter(pk=source.pk).update(steps=[step.as_json() for step in split], part="test")
    other = ready_version(cast.actor("teammate"), "mixture", [{"prompt": "Who?", "completion": "We."}])
    edges.link(source, "mixed into", other, workspace=cast.workspace)
    for path, given, field in (
        (f"{PATH}augment/", {"dataset": "mixture", "endpoint": "lab"}, "dataset"),
        (f"{PATH}augment/", {"dataset": "tickets:1", "endpoint": "lab"}, "dataset"),
        (f"{PATH}augment/", {"dataset": "tickets:2", "endpoint": "lab"}, "dataset"),  # made from it
        (PATH, {"to": "x", "seeds": "tickets:1", "endpoint": "lab"}, "seeds"),
    ):
        answer = cast.api("teammate").post(path, given)
        assert answer.status_code == 400
        assert "held out" in answer.json()["errors"][field][0]


def test_the_command_reads_the_same_file(cast: Cast, lab: Endpoint, tmp_path: Path) -> None:
    config = tmp_path / "facts.yaml"
    config.write_text(json.dumps(body()))
    out = StringIO()
    call_command("synthesize", config=str(config), to="other", workspace="acme", stdout=out)
    assert "writes other:1" in out.getvalue()
    config.write_text("to: x\nprompts: [a]\n")
    with pytest.raises(CommandError, match="prompts"):
        call_command("synthesize", config=str(config), workspace="acme")


def test_the_page_asks_for_the_same(cast: Cast, lab: Endpoint) -> None:
    page = cast.page("teammate")
    source = ready_version(
        cast.actor("teammate"), "tickets", [{"prompt": "Where is my parcel?", "completion": "Here."}]
    )
    for kind in ("templates", "documents", "seeds", "augment"):
        shown = page.get(f"/datasets/write/?kind={kind}&data={source.pk}")
        assert shown.status_code == 200
        assert b"lab (tiny)" in shown.content
    assert cast.page("viewer").get("/datasets/write/").status_code == 403
    fields = {
        "writer": f"endpoint:{lab.pk}",
        "to": "facts",
        "template_prompts": "Say {what}\n---\nShout {what}\nloudly",
        "values": "what: one | two, or three",
        "num_samples": "4",
        "temperature": "0.5",
        "max_tokens": "50",
        "quality_filter": "on",
        "output_format": "completion",
    }
    sent = page.post("/datasets/write/?kind=templates", fields)
    assert sent.status_code == 302, sent.content.decode()
    job = Job.objects.latest("created_at")
    assert sent["Location"] == f"/jobs/{job.pk}/"
    assert job.params["template_prompts"] == ["Say {what}", "Shout {what}\nloudly"]
    assert job.params["values"] == {"what": ["one", "two, or three"]}
    assert (job.params["num_samples"], job.params["quality_filter"]) == (4, True)
    wrong = page.post("/datasets/write/?kind=templates", {**fields, "values": "", "num_samples": "0"})
    assert wrong.status_code == 400
    assert b"greater than or equal to 1" in wrong.content
    more = {"writer": fields["writer"], "rows": str(source.pk), "method": "paraphrase", "part": "prompt", "copies": "2"}
    sent = page.post("/datasets/write/?kind=augment", {**more, "share": "1", "temperature": "1", "max_tokens": "99"})
    assert sent.status_code == 302, sent.content.decode()
    assert Job.objects.latest("created_at").params["copies"] == 2
