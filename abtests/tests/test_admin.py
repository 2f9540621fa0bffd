"""The operator's desk: everything opens, nothing can be edited, buttons do what the actions do."""

import pytest
from django.test import Client

from abtests.actions import abtests, feedback
from abtests.actions.abtests import Share
from abtests.models import ABTest
from project.kernel.models import AuditEntry, User


@pytest.fixture
def desk(cast):
    staff = User.objects.create_superuser("staff", "staff@example.com")
    client = Client()
    client.force_login(staff)
    return client


def test_lists_and_details_open(desk, cast, world, django_assert_max_num_queries):
    for _ in range(30):
        answer = world.answer()
        vote = feedback.give(answer.pk, by=cast.actor("owner"), rating=2)
        feedback.give(answer.pk, by=cast.actor("owner"), rating=4)
    test = abtests.create(name="t", variants=[Share("intents:1"), Share("intents:2")], by=cast.actor("operator"))
    for path in ("answer", "feedback", "abtest"):
        with django_assert_max_num_queries(20):
            assert desk.get(f"/admin/abtests/{path}/").status_code == 200
    for path in (f"answer/{answer.pk}", f"feedback/{vote.pk}", f"abtest/{test.pk}"):
        assert desk.get(f"/admin/abtests/{path}/change/").status_code == 200
    assert desk.get("/admin/abtests/answer/", {"q": answer.pk}).status_code == 200
    assert desk.get("/admin/abtests/answer/add/").status_code == 403
    assert desk.post(f"/admin/abtests/answer/{answer.pk}/delete/", {"post": "yes"}).status_code == 403


def test_buttons_run_a_test(desk, cast, world):
    test = abtests.create(name="t", variants=[Share("intents:1"), Share("intents:2")], by=cast.actor("operator"))

    def press(action):
        data = {"action": action, "_selected_action": [str(test.pk)]}
        return desk.post("/admin/abtests/abtest/", data, follow=True).content.decode()

    assert "t is running" in press("start")
    assert "only a draft or a paused test can be started" in press("start")
    assert "t is paused" in press("pause")
    assert "t is stopped" in press("stop")
    assert ABTest.objects.get().state == "stopped"
    assert AuditEntry.objects.filter(verb="abtest.started", actor_label__contains="staff").exists()
