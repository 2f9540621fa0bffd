"""`/api/v1/jobs/`: shapes, filters, verbs, and who sees what."""

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from project.jobs.models import Job, Metric
from project.jobs.testing import run_to_end
from project.jobs.tests.test_launch import launch
from project.testing import Cast


def test_a_finished_job_tells_everything_about_itself(cast: Cast) -> None:
    job = run_to_end(launch(cast, params={"steps": 4, "checkpoint_every": 2}))
    api = cast.api("viewer")
    body = api.get(f"/api/v1/jobs/{job.pk}/").json()
    assert (body["state"], body["percent"], body["result"]) == ("succeeded", 100.0, {"counted": 4})
    assert body["attempts"][0]["outcome"] == "succeeded"
    assert body["params"]["steps"] == 4

    events = api.get(f"/api/v1/jobs/{job.pk}/events/").json()["results"]
    assert [event["seq"] for event in events] == list(range(1, body["last_seq"] + 1))
    assert events[0]["type"] == "state" and events[-1]["state"] == "succeeded"
    rest = api.get(f"/api/v1/jobs/{job.pk}/events/", {"after": 3, "limit": 2}).json()["results"]
    assert [event["seq"] for event in rest] == [4, 5]

    metrics = api.get(f"/api/v1/jobs/{job.pk}/metrics/", {"keys": "loss"}).json()
    assert metrics["series"]["loss"] == {"steps": [1, 2, 3, 4], "values": [1, 1 / 2, 1 / 3, 1 / 4], "count": 4}
    assert "loss" in metrics["keys"]

    checkpoints = api.get(f"/api/v1/jobs/{job.pk}/checkpoints/").json()
    assert [kept["step"] for kept in checkpoints] == [4, 2]


def test_the_log_is_read_from_its_end_or_from_an_offset(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="misbehave", params={"how": "crash"}))
    api = cast.api("viewer")
    tail = api.get(f"/api/v1/jobs/{job.pk}/log/").json()
    assert "ZeroDivisionError" in tail["text"]
    assert tail["next_offset"] == tail["size"]
    part = api.get(f"/api/v1/jobs/{job.pk}/log/", {"offset": 0, "limit": 10}).json()
    assert (part["text"], part["next_offset"]) == (tail["text"][:10], 10)
    (job.run_folder(1) / "log.txt").unlink()  # on another host the database has the last part
    assert "ZeroDivisionError" in api.get(f"/api/v1/jobs/{job.pk}/log/").json()["text"]


def test_lists_are_filtered_searched_and_cheap(
    cast: Cast, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(5):
        launch(cast, title=f"Job number {number}")
    launch(cast, title="A draft", start=False)
    api = cast.api("viewer")
    with django_assert_max_num_queries(5):
        assert api.get("/api/v1/jobs/").json()["count"] == 6
    assert api.get("/api/v1/jobs/", {"state": "draft"}).json()["count"] == 1
    assert api.get("/api/v1/jobs/", {"search": "number 3"}).json()["count"] == 1
    assert api.get("/api/v1/jobs/", {"recipe": "sft"}).json()["count"] == 0
    assert api.get("/api/v1/jobs/", {"state": "sleeping"}).status_code == 400


def test_verbs_over_http(cast: Cast) -> None:
    api = cast.api("teammate")
    draft = launch(cast, start=False)
    started = api.post(f"/api/v1/jobs/{draft.pk}/start/").json()
    assert (started["state"], started["queue_position"]) == ("queued", 1)
    assert api.post(f"/api/v1/jobs/{draft.pk}/start/").status_code == 409
    assert api.post(f"/api/v1/jobs/{draft.pk}/cancel/").json()["state"] == "cancelled"
    again = api.post(f"/api/v1/jobs/{draft.pk}/retry/")
    assert (again.status_code, again.json()["retry_of"]) == (201, str(draft.pk))
    assert cast.api("viewer").post(f"/api/v1/jobs/{draft.pk}/retry/").status_code == 403


@pytest.mark.parametrize("path", ["", "events/", "metrics/", "log/", "checkpoints/"])
def test_a_stranger_finds_nothing(cast: Cast, path: str) -> None:
    job = launch(cast)
    assert cast.api("stranger").get(f"/api/v1/jobs/{job.pk}/{path}").status_code == 404
    assert cast.api("stranger").get("/api/v1/jobs/").json()["count"] == 0
    assert cast.api("stranger").post(f"/api/v1/jobs/{job.pk}/cancel/").status_code == 404


def test_recipes_come_with_the_schema_of_their_parameters(cast: Cast) -> None:
    recipes = {recipe["name"]: recipe for recipe in cast.api("viewer").get("/api/v1/jobs/recipes/").json()}
    assert recipes["count"]["needs"] == "cpu"
    assert recipes["count"]["params"]["properties"]["steps"]["maximum"] == 1_000_000


@pytest.mark.parametrize(("query", "field"), [("after=-1", "after"), ("limit=0", "limit"), ("limit=many", "limit")])
def test_wrong_queries_are_named(cast: Cast, query: str, field: str) -> None:
    response = cast.api("viewer").get(f"/api/v1/jobs/{launch(cast).pk}/events/?{query}")
    assert response.status_code == 400
    assert field in response.json()["errors"]


def test_a_long_chart_is_short_and_keeps_its_spike(cast: Cast) -> None:
    job = launch(cast)
    now = timezone.now()
    rows = [
        Metric(job=job, key="loss", step=step, attempt=1, value=99.0 if step == 7777 else 1.0, at=now)
        for step in range(20_000)
    ]
    Metric.objects.bulk_create(rows, batch_size=2000)
    body = cast.api("viewer").get(f"/api/v1/jobs/{job.pk}/metrics/", {"keys": "loss", "px": 100}).json()
    series = body["series"]["loss"]
    assert len(series["steps"]) <= 200
    assert series["steps"] == sorted(series["steps"])
    assert max(series["values"]) == 99.0
    assert series["count"] == 20_000


def test_a_repeated_step_shows_the_last_attempts_number(cast: Cast) -> None:
    job = launch(cast)
    Job.objects.filter(pk=job.pk).update(attempt=2)
    now = timezone.now()
    for attempt, steps in ((1, range(1, 8)), (2, range(5, 7))):
        Metric.objects.bulk_create(
            Metric(job=job, key="loss", step=step, attempt=attempt, value=attempt, at=now) for step in steps
        )
    series = cast.api("viewer").get(f"/api/v1/jobs/{job.pk}/metrics/").json()["series"]["loss"]
    assert series["steps"] == [1, 2, 3, 4, 5, 6, 7]
    assert series["values"] == [1, 1, 1, 1, 2, 2, 1]


def test_the_eta_counts_down(cast: Cast) -> None:
    job = launch(cast)
    Job.objects.filter(pk=job.pk).update(
        state="running", step=50, total=100, rate=5.0, progress_at=timezone.now() - timedelta(seconds=4)
    )
    job.refresh_from_db()
    assert job.eta_seconds == pytest.approx(6, abs=0.5)
