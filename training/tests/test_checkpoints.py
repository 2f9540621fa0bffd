"""A checkpoint of a fine-tune becomes a version, and another job goes on from it."""

import io
import json
from typing import Any

import pytest
import torch
from django.core.management import call_command
from safetensors.torch import load_file

from project.jobs.actions import jobs
from project.jobs.models import Checkpoint, Job
from project.jobs.testing import run_to_end
from project.kernel import artifacts, edges
from project.kernel.errors import Conflict, Forbidden, NotFound
from project.testing import Cast
from registry.models import ModelVersion, RegisteredModel
from training import jobfile
from training.actions import checkpoints, evaluations, finetunes

pytestmark = pytest.mark.full


@pytest.fixture
def tuned(cast: Cast, job_file: dict[str, Any]) -> Job:
    """A fine-tune of 4 steps with checkpoints at 2 and 4."""
    document = {
        **job_file,
        "method": {"type": "lora", "r": 4},
        "hyperparameters": {"max_steps": 4, "batch_size": 4, "max_seq_length": 64},
        "optimization": {"checkpoint_every": 2},
        "evaluation": {"metrics": []},
    }
    job = run_to_end(finetunes.launch(jobfile.parse(document), by=cast.actor("teammate")))
    assert job.state == "succeeded", job.failure_message
    return job


def weights(version: ModelVersion) -> dict[str, torch.Tensor]:
    return load_file(artifacts.local_path(version.artifact) / "adapter_model.safetensors")


def test_a_checkpoint_becomes_a_version(cast: Cast, tuned: Job) -> None:
    made = run_to_end(checkpoints.register_checkpoint(tuned, 2, by=cast.actor("teammate")))
    assert made.state == "succeeded", made.failure_message
    version = ModelVersion.objects.get(pk=made.result["model_version"])
    final = ModelVersion.objects.get(pk=tuned.result["model_version"])
    assert (version.model, version.number, version.base, version.stage) == (final.model, 2, final.base, "draft")
    assert version.source == f"checkpoint of job {tuned.pk}, attempt 1, step 2"
    assert version.metrics["step"] == 2
    kept = tuned.checkpoints.get(step=2)
    saved = load_file(kept.folder / "adapter_model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in weights(version).items())
    assert not all(torch.equal(tensor, saved[name]) for name, tensor in weights(final).items())
    assert ("saved", str(tuned.pk)) in {(edge.relation, edge.source_id) for edge in edges.upstream(version)}
    names = {entry["path"] for entry in version.artifact.manifest}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert checkpoints.register_checkpoint(tuned, 2, by=cast.actor("teammate")) == made  # asking twice is fine
    said = io.StringIO()
    call_command("register_checkpoint", str(tuned.pk), "2", "--json", "--workspace", "acme", stdout=said)
    assert json.loads(said.getvalue())["model_version"] == str(version.pk)

    body = cast.api("teammate").post(f"/api/v1/jobs/{tuned.pk}/checkpoints/4/register/", {"model": "early-bird"})
    assert body.status_code == 201, body.content
    made = run_to_end(Job.objects.get(pk=body.json()["id"]))
    assert RegisteredModel.objects.get(name="early-bird").versions.get().job_id == made.pk


def test_what_can_not_be_registered_says_why(cast: Cast, tuned: Job) -> None:
    by = cast.actor("teammate")
    with pytest.raises(NotFound, match="no checkpoint at step 3"):
        checkpoints.register_checkpoint(tuned, 3, by=by)
    with pytest.raises(Forbidden):
        checkpoints.register_checkpoint(tuned, 2, by=cast.actor("viewer"))
    with pytest.raises(NotFound):
        checkpoints.register_checkpoint(tuned, 2, by=cast.actor("stranger"))
    version = ModelVersion.objects.get(pk=tuned.result["model_version"])
    evaluation = evaluations.launch(version, tuned.fine_tune.data_version, metrics=["exact_match"], by=by)
    with pytest.raises(
        Conflict, match="Only a checkpoint of a fine-tune can become a version; this job is: Evaluation"
    ):
        checkpoints.register_checkpoint(evaluation, 2, by=by)

    file = tuned.checkpoints.get(step=2).folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    made = run_to_end(checkpoints.register_checkpoint(tuned, 2, by=cast.actor("teammate")))
    assert (made.state, made.failure_class) == ("failed", "user_error")
    assert "adapter_model.safetensors is damaged" in made.failure_message
    with pytest.raises(Conflict, match=r"step 2 can't be used: .*adapter_model\.safetensors is damaged"):
        checkpoints.register_checkpoint(tuned, 2, by=cast.actor("teammate"))


def test_the_page_offers_both_and_the_button_makes_the_job(cast: Cast, tuned: Job) -> None:
    page = cast.page("teammate")
    shown = page.get(f"/jobs/{tuned.pk}/").content.decode()
    assert shown.count(">Register<") == shown.count(">Go on<") == 2
    assert "/register/" not in cast.page("viewer").get(f"/jobs/{tuned.pk}/").content.decode()
    answer = page.post(f"/jobs/{tuned.pk}/checkpoints/2/register/")
    made = Job.objects.get(recipe="register-checkpoint")
    assert answer.headers["Location"] == f"/jobs/{made.pk}/" and made.start_checkpoint == tuned.checkpoints.get(step=2)


def test_a_retry_goes_on_from_a_checkpoint_to_the_same_weights_or_fails(cast: Cast, tuned: Job) -> None:
    api = cast.api("teammate")
    body = api.post(f"/api/v1/jobs/{tuned.pk}/retry/", {"from_checkpoint": 2})
    assert body.status_code == 201, body.content
    again = run_to_end(Job.objects.get(pk=body.json()["id"]))
    assert again.state == "succeeded", again.failure_message
    assert [event.body["step"] for event in again.events.filter(type="resumed")] == [2]
    one, two = (ModelVersion.objects.get(pk=job.result["model_version"]) for job in (tuned, again))
    assert one != two
    ours, theirs = weights(one), weights(two)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert "Resumed exactly from step 2." in cast.page("viewer").get(f"/jobs/{again.pk}/").content.decode()
    assert api.post(f"/api/v1/jobs/{tuned.pk}/retry/", {"from_checkpoint": "x"}).status_code == 400

    # one that was to start from a damaged checkpoint fails: it does not begin anew in silence
    again = jobs.retry(tuned, cast.actor("teammate"), from_checkpoint=True)
    kept = Checkpoint.objects.get(job=tuned, step=4)
    assert again.start_checkpoint == kept
    (kept.folder / "optimizer.pt").write_bytes(b"")
    again = run_to_end(again)
    assert (again.state, again.failure_class) == ("failed", "user_error")
    assert "checkpoint at step 4 that it was to start from can't be used" in again.failure_message
