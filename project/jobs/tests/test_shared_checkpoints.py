"""With a shared store a job outlives the host it ran on."""

import os
import shutil
import signal

import pytest
from botocore.client import BaseClient

from project.contracts.runs import RunSpec
from project.jobs.models import Checkpoint, Job, Metric
from project.jobs.tests.stack import Stack, ended, stepping, until
from project.testing import S3Server

pytestmark = pytest.mark.full


def environment(server: S3Server) -> dict[str, str]:
    return {
        "S3_BUCKET": "artifacts",
        "S3_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture
def s3(s3_server: S3Server) -> BaseClient:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3_server.url,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name="us-east-1",
    )


def stored(s3: BaseClient, job: Job) -> set[str]:
    """The keys of stored checkpoints."""
    found = s3.list_objects_v2(Bucket="artifacts", Prefix=f"{job.workspace_id}/checkpoint/").get("Contents", [])
    return {entry["Key"].rsplit("/", 1)[0] for entry in found}


def test_a_job_goes_on_elsewhere_when_its_host_is_lost(services: Stack, s3_server: S3Server, s3: BaseClient) -> None:
    lost = services.data / "lost"
    lost.mkdir()
    first = services.worker(DATA_PATH=str(lost), TUNELOOP_HOST_NAME="lost-host", **environment(s3_server))
    services.beat()
    job = services.launch(steps=120, pause=0.05, checkpoint_every=10, keep_checkpoints=2)
    until(Checkpoint.objects.filter(job=job, step__gte=20).exclude(artifact=None).exists, "a stored checkpoint")
    attempt = stepping(job, 20)
    first.kill()
    first.wait()
    os.killpg(attempt.pid or 0, signal.SIGKILL)
    shutil.rmtree(lost)

    second = services.data / "second"
    second.mkdir()
    services.worker(DATA_PATH=str(second), TUNELOOP_HOST_NAME="second-host", **environment(s3_server))
    job = ended(job)
    assert (job.state, job.attempt, job.losses) == ("succeeded", 2, 1)
    spec = RunSpec.model_validate_json((second / "runs" / str(job.pk) / "2" / "spec.json").read_bytes())
    assert spec.resume_from is not None and spec.resume_from.startswith(str(second))
    begun = Metric.objects.filter(job=job, key="loss", attempt=2).earliest("step").step
    assert begun > 20 and spec.resume_from.endswith(f"step-{begun - 1:08d}")
    steps = Metric.objects.filter(job=job, key="loss").order_by("step").values_list("step", flat=True).distinct()
    assert list(steps) == list(range(1, 121))

    kept = Checkpoint.objects.filter(job=job, deleted_at=None)
    assert [row.step for row in kept] == [120, 110]
    with_copy = {row.artifact.key for row in Checkpoint.objects.filter(job=job) if row.artifact}
    assert stored(s3, job) == with_copy <= {row.artifact.key for row in kept if row.artifact}  # what was let go is gone
