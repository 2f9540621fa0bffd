"""The operator's desk shows every workspace's data and deletes by the same action."""

from django.test import Client

from datasets_app.models import Dataset
from datasets_app.testing import ready_version
from datasets_app.tests.files import PAIRS
from project.kernel.models import AuditEntry, User
from project.testing import Cast


def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", "root@example.com"))
    return client


def test_lists_and_facts(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    ready_version(cast.actor("stranger"), "theirs", PAIRS)
    client = staff()
    listed = client.get("/admin/datasets_app/dataset/").content.decode()
    assert "pairs" in listed and "theirs" in listed
    for path in (
        f"dataset/{version.dataset_id}/change/",
        "datasetversion/?q=pairs",
        f"datasetversion/{version.pk}/change/",
    ):
        assert "pairs" in client.get(f"/admin/datasets_app/{path}").content.decode()
    assert client.get("/admin/datasets_app/dataset/add/").status_code == 403


def test_the_delete_button_calls_the_action(cast: Cast) -> None:
    dataset = ready_version(cast.actor("teammate"), "pairs", PAIRS).dataset
    body = {"action": "delete_with_rows", "_selected_action": str(dataset.pk)}
    assert staff().post("/admin/datasets_app/dataset/", body).status_code == 302
    assert not Dataset.objects.exists()
    assert AuditEntry.objects.get(verb="dataset.deleted").actor_label == "root@example.com (admin)"
