"""Preparing a version: by the API, from a shell, by a job; what it leaves, what it refuses, and trying it again."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from datasets_app import storage
from datasets_app.actions import preparations, synthesis
from datasets_app.management.commands import prepare_dataset
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.testing import ready_version
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.kernel import artifacts, edges
from project.kernel.errors import Conflict, Invalid
from project.kernel.models import AuditEntry
from project.testing import Cast

ROWS = [
    {"prompt": "Where is my card?", "completion": "card_arrival", "user": "a"},
    {"prompt": "WHERE is my card?", "completion": "card_arrival", "user": "a"},
    {"prompt": "Where is my card?", "completion": "card_arrival", "user": "b"},
    {"prompt": "Hi", "completion": "greeting", "user": "c"},
    {"prompt": "Write to me, please", "completion": "contact", "user": "d"},
]
CLEAN = [
    {"type": "filter", "condition": "length > 10"},
    {"type": "transform", "operation": "lowercase", "part": "prompt"},
    {"type": "drop_duplicates"},
]


def versions_url(version: DatasetVersion) -> str:
    return f"/api/v1/datasets/{version.dataset_id}/versions/"


def made(reply: Any) -> list[DatasetVersion]:
    assert reply.status_code == 201, reply.content
    return [DatasetVersion.objects.select_related("dataset").get(pk=v["id"]) for v in reply.json()["prepared"]]


def run(version: DatasetVersion) -> DatasetVersion:
    job = run_to_end(Job.objects.get(pk=version.job_id))
    assert job.state == "succeeded", job.failure_message
    return DatasetVersion.objects.select_related("dataset", "artifact", "parent").get(pk=version.pk)


def rows_of(version: DatasetVersion) -> list[tuple[str, str]]:
    assert version.artifact
    return [
        (row.row["prompt"], row.row["completion"])
        for row in storage.read(artifacts.local_path(version.artifact), 0, 99)
    ]


def test_steps_make_the_next_version_with_its_lineage(cast: Cast) -> None:
    source = ready_version(cast.actor("teammate"), "intents", ROWS)
    reply = cast.api("teammate").post(versions_url(source), {"steps": CLEAN, "seed": 3}, format="json")
    (version,) = made(reply)
    assert reply.json()["job"] == str(version.job_id) and reply.json()["version"]["operation"] == "prepare"
    assert (reply.json()["version"]["parent"], reply.json()["version"]["steps"]) == (str(source.pk), CLEAN)
    version = run(version)
    assert str(version) == "intents:2" and version.is_ready and version.parent == source
    assert rows_of(version) == [("where is my card?", "card_arrival"), ("write to me, please", "contact")]
    assert version.steps == CLEAN and version.row_kind == "completion"
    told = version.report["preparation"]
    assert told["from"] == "intents:1" and told["rows"] == 5 and told["seed"] == 3
    assert [(s["rows_in"], s["rows_out"], s["changed"]) for s in told["steps"]] == [(5, 4, 0), (4, 4, 4), (4, 2, 0)]
    assert {(edge.source_kind, edge.relation) for edge in edges.upstream(version)} == {
        ("datasetversion", "prepared"),
        ("job", "prepared"),
    }
    assert AuditEntry.objects.filter(verb="dataset.version_ready", object_id=str(version.pk)).exists()
    again = run(
        made(cast.api("teammate").post(versions_url(source), {"from": "intents:1", "steps": CLEAN}, format="json"))[0]
    )
    assert (again.digest, again.meta_digest) == (version.digest, version.meta_digest)


def test_a_split_makes_one_data_set_per_part(cast: Cast) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"label {n % 4}"} for n in range(100)]
    source = ready_version(cast.actor("teammate"), "intents", rows)
    steps = [
        {"type": "split", "parts": {"train": 0.8, "test": 0.2}, "by": "stratified"},
        {"type": "typos", "rate": 0.5},
    ]
    versions = [
        run(version)
        for version in made(cast.api("teammate").post(versions_url(source), {"steps": steps}, format="json"))
    ]
    assert [(str(v), v.part) for v in versions] == [("intents-train:1", "train"), ("intents-test:1", "test")]
    train, test = versions
    assert (
        test.rows == 20
        and test.synthetic_rows == 0
        and not {p for p, _ in rows_of(test)} & {p for p, _ in rows_of(train)}
    )
    assert train.rows == 80 + train.synthetic_rows and train.synthetic_rows > 70
    shown = cast.api("viewer").get("/api/v1/dataset-versions/intents-test:1/").json()
    assert shown["part"] == "test" and shown["steps"][0]["parts"] == [["train", 0.8], ["test", 0.2]]
    second = preparations.prepare(source, steps, by=cast.actor("teammate"), to="other", seed=1)
    assert [str(version) for version in second] == ["other-train:1", "other-test:1"]


def test_what_a_held_out_part_was_kept_out_of_is_not_held_out(cast: Cast) -> None:
    by = cast.actor("teammate")
    source = ready_version(by, "pairs", [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(40)])
    train, test = map(run, preparations.prepare(source, [{"type": "split"}], by=by))
    clean = run(preparations.prepare(source, [{"type": "without", "data": str(test)}], by=by, to="clean")[0])
    assert clean.rows == train.rows == 40 - test.rows and sorted(rows_of(clean)) == sorted(rows_of(train))
    assert clean.steps == [{"type": "without", "data": "pairs-test:1"}]
    assert (str(test.pk), "kept out of") in {(str(edge.source_id), edge.relation) for edge in edges.upstream(clean)}
    synthesis.require_not_held_out(clean, field="dataset")  # a model may write more like it
    mixed = run(preparations.prepare(clean, [{"type": "mix", "data": {str(test): 1}}], by=by, to="mixed")[0])
    with pytest.raises(Invalid):
        synthesis.require_not_held_out(mixed, field="dataset")


def test_mixed_data_sets_are_fixed_to_their_version_and_in_the_lineage(cast: Cast) -> None:
    by = cast.actor("teammate")
    source = ready_version(by, "intents", ROWS)
    other = ready_version(by, "more", [{"prompt": f"more {n}", "completion": "x"} for n in range(5)])
    steps = [{"type": "mix", "data": {"more": 1.0}}]
    version = run(preparations.prepare(source, steps, by=by, to="mixed")[0])
    assert version.rows == 10 and version.steps == [{"type": "mix", "data": {"more:1": 1.0}}]
    assert {(str(edge.source_id), edge.relation) for edge in edges.upstream(version)} >= {
        (str(other.pk), "mixed into"),
        (str(source.pk), "prepared"),
    }
    preview = preparations.preview(source, steps, by=by)
    assert sum(row.number == 0 for row in preview.rows) == 1 and preview.steps[0]["added"] == 5
    with pytest.raises(
        Invalid, match=r"steps\.0\.data: Step 1 \(mix\), data: There is no data set 'mroe'. Did you mean"
    ):
        preparations.prepare(source, [{"type": "mix", "data": {"mroe": 1}}], by=by)


def test_a_preview_shows_what_becomes_of_each_row(cast: Cast) -> None:
    source = ready_version(cast.actor("teammate"), "intents", ROWS)
    url = f"/api/v1/dataset-versions/{source.pk}/preview/"
    reply = cast.api("teammate").post(
        url, {"steps": [*CLEAN, {"type": "replace", "find": "to me", "replacement": "back"}]}, format="json"
    )
    assert reply.status_code == 200, reply.content
    rows = {row["number"]: row for row in reply.json()["rows"]}
    assert [rows[n]["step"] for n in (1, 2, 3, 4, 5)] == [0, 3, 3, 1, 0]
    assert rows[4]["why"] == "the condition is false" and rows[4]["after"] == []
    assert rows[5]["changed"] and rows[5]["after"][0]["prompt"] == "write back, please"
    assert rows[1]["before"]["prompt"] == "Where is my card?" and rows[1]["before_meta"] == {"user": "a"}
    later = cast.api("teammate").post(url, {"steps": [{"type": "strip"}], "start": 3, "rows": 1}, format="json").json()
    assert [row["number"] for row in later["rows"]] == [4] and not later["rows"][0]["changed"]
    assert Job.objects.count() == 0 and DatasetVersion.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"steps": []}, "steps", "Add at least one step"),
        ({"steps": [{"type": "fliter"}]}, "steps.0.type", "Did you mean 'filter'?"),
        ({"steps": [CLEAN[0], {"type": "filter", "condition": "lenght > 1"}]}, "steps.1.condition", "Step 2 (filter)"),
        ({"steps": [{"type": "filter", "condition": "chosen != 'x'"}]}, "steps.0.condition", "row 1: a completion row"),
        ({"steps": [{"type": "split", "by": "group", "column": "usr"}]}, "steps.0.column", "(found: user)"),
        ({"steps": [{"type": "mix", "data": {"nothing": 1}}]}, "steps.0.data", "no data set 'nothing'"),
        ({"steps": CLEAN, "sed": 1}, "sed", "Did you mean 'seed'?"),
        ({"steps": CLEAN, "seed": -1}, "seed", "greater than or equal to 0"),
        ({"steps": CLEAN, "from": "a b"}, "from", ""),
    ],
)
def test_mistakes_are_answered_at_once_and_leave_nothing(cast: Cast, body: Any, field: str, words: str) -> None:
    source = ready_version(cast.actor("teammate"), "intents", ROWS)
    reply = cast.api("teammate").post(versions_url(source), body, format="json")
    assert reply.status_code == 400, reply.content
    assert field in reply.json()["errors"] and words in " ".join(reply.json()["errors"][field])
    assert Job.objects.count() == 0 and Dataset.objects.count() == 1 and DatasetVersion.objects.count() == 1


def test_who_may_not_and_what_is_not_there(cast: Cast) -> None:
    source = ready_version(cast.actor("teammate"), "intents", ROWS)
    body = {"steps": CLEAN}
    preview = f"/api/v1/dataset-versions/{source.pk}/preview/"
    for url in (versions_url(source), preview):
        assert cast.api("viewer").post(url, body, format="json").status_code == 403
        assert cast.api("stranger").post(url, body, format="json").status_code == 404
    missing = cast.api("teammate").post(versions_url(source), {**body, "from": "other:1"}, format="json")
    assert missing.status_code == 404
    importing = preparations.prepare(source, CLEAN, by=cast.actor("teammate"))[0]
    early = cast.api("teammate").post(versions_url(source), {**body, "from": str(importing)}, format="json")
    assert early.status_code == 409 and "still being" in early.json()["detail"]


def test_the_steps_and_their_schemas_are_listed(cast: Cast) -> None:
    reply = cast.api("viewer").get("/api/v1/dataset-steps/").json()
    assert reply["elsewhere"]["paraphrase"] == "POST /api/v1/synthetic-data/augment/"
    steps = {step["name"]: step for step in reply["steps"]}
    assert steps["filter"]["schema"]["properties"]["condition"]["description"]
    assert steps["filter"]["example"] == {"type": "filter", "condition": "length > 10"}
    assert "length" in reply["names"] and "matches" in reply["functions"]


def test_no_row_left_fails_with_the_step_and_can_be_tried_again(cast: Cast) -> None:
    by = cast.actor("teammate")
    source = ready_version(by, "intents", ROWS)
    version = preparations.prepare(source, [{"type": "filter", "condition": "length > 1000"}], by=by)[0]
    job = run_to_end(Job.objects.get(pk=version.job_id))
    version.refresh_from_db()
    assert (job.state, job.failure_class, job.failure_field) == ("failed", "user_error", "steps.0")
    assert version.state == "failed" and "Step 1 (filter): It leaves no row of the 5 it got" in version.failure
    again = jobs.retry(job, by=by)
    version.refresh_from_db()
    assert version.is_importing and version.job_id == again.pk
    assert run_to_end(again).state == "failed"


def test_a_cancelled_preparation_succeeds_when_it_is_tried_again(cast: Cast) -> None:
    by = cast.actor("teammate")
    source = ready_version(by, "intents", ROWS)
    version = preparations.prepare(source, CLEAN, by=by, to="clean")[0]
    old = Job.objects.get(pk=version.job_id)
    jobs.cancel(old, by=by)
    version.refresh_from_db()
    assert version.state == "failed" and "cancelled" in version.failure
    old.refresh_from_db()
    new = run_to_end(jobs.retry(old, by=by))
    version.refresh_from_db()
    assert new.state == "succeeded" and version.is_ready and version.rows == 2 and version.job_id == new.pk
    with pytest.raises(Conflict, match="is ready; there is nothing to try again"):
        jobs.retry(new, by=by)


# --- from a shell


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("prepare_dataset", *arguments, "--workspace", "acme", stdout=out)
    return out.getvalue()


def test_a_file_of_steps_from_a_shell(cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_dataset, "follow", lambda job, **_: run_to_end(job))
    ready_version(cast.actor("teammate"), "intents", ROWS)
    file = tmp_path / "steps.yaml"
    file.write_text("steps:\n- type: filter\n  condition: length > 10\n- {type: lowercase}\n")
    said = command("intents", "--steps", str(file), "--step", '{"type": "drop_duplicates"}', "--to", "clean", "--wait")
    assert "clean:1 is ready: 2 rows of kind completion" in said and "  1. filter: 1 dropped" in said
    printed = json.loads(command("intents:1", "--step", '{"type": "strip"}', "--json"))["versions"][0]
    assert (printed["reference"], printed["state"], printed["steps"][0]["operation"]) == (
        "intents:2",
        "importing",
        "strip",
    )
    preview = command("intents:1", "--steps", str(file), "--preview")
    assert "Row 4: dropped by step 1 (the condition is false)" in preview and "Row 1: changed" in preview


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- type: [", "is neither YAML nor JSON"),
        ("type: filter", "write a list of steps"),
        ("- {type: filter, condition: 'lenght > 1'}", "Step 1 (filter), condition: Unknown name 'lenght'"),
    ],
)
def test_a_wrong_file_of_steps_is_one_line(cast: Cast, tmp_path: Path, content: str, words: str) -> None:
    ready_version(cast.actor("teammate"), "intents", ROWS)
    file = tmp_path / "steps.yaml"
    file.write_text(content)
    with pytest.raises(CommandError) as caught:
        command("intents", "--steps", str(file))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_shell_without_steps_or_a_file_that_is_not_there(cast: Cast) -> None:
    ready_version(cast.actor("teammate"), "intents", ROWS)
    for arguments, words in (
        ((), "--steps FILE or --step"),
        (("--steps", "/nothing"), "can't be read"),
        (("--step", "{"), "is not JSON"),
    ):
        with pytest.raises(CommandError, match=words):
            command("intents", *arguments)
