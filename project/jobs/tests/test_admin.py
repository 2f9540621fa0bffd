"""The operator's desk."""

import pytest
from django.test import Client

from project.jobs.models import DeviceSlot, Job, Worker
from project.jobs.testing import run_to_end
from project.jobs.tests.test_launch import launch
from project.kernel.models import AuditEntry
from project.testing import Cast


@pytest.fixture
def desk(cast: Cast) -> Client:
    cast.owner.is_staff = cast.owner.is_superuser = True
    cast.owner.save()
    return cast.page("owner")


def test_everything_can_be_looked_at_and_nothing_edited(cast: Cast, desk: Client) -> None:
    job = run_to_end(launch(cast))
    for path in ("job", "jobattempt", "jobevent", "deviceslot", "worker"):
        assert desk.get(f"/admin/jobs/{path}/").status_code == 200
    detail = desk.get(f"/admin/jobs/job/{job.pk}/change/")
    assert detail.status_code == 200
    assert 'name="state"' not in detail.content.decode()
    assert desk.get(f"/admin/jobs/jobattempt/{job.attempts.get().pk}/change/").status_code == 200
    assert DeviceSlot.objects.exists() and not Worker.objects.exists()


def test_cancel_and_queue_again_are_audited(cast: Cast, desk: Client) -> None:
    job = launch(cast)
    chosen = {"_selected_action": [str(job.pk)]}
    desk.post("/admin/jobs/job/", {"action": "cancel", **chosen})
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert AuditEntry.objects.get(verb="job.cancelled").actor_label == "owner@example.com (admin)"
    answer = desk.post("/admin/jobs/job/", {"action": "cancel", **chosen}, follow=True)
    assert "been cancelled already" in answer.content.decode()
    desk.post("/admin/jobs/job/", {"action": "requeue", **chosen})
    assert Job.objects.filter(retry_of=job, state="queued").count() == 1
