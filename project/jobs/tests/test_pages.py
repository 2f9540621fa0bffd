"""The pages of jobs, as a browser without JavaScript sees them."""

import pytest
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.jobs.tests.test_launch import launch
from project.testing import Cast


def test_the_list_is_empty_then_full_and_can_be_narrowed(cast: Cast) -> None:
    page = cast.page("viewer")
    assert "No jobs yet" in page.get("/jobs/").content.decode()
    launch(cast, title="Alpha")
    launch(cast, title="Beta", start=False)
    everything = page.get("/jobs/").content.decode()
    assert "Alpha" in everything and "Beta" in everything
    assert "Nobody is working" in everything
    drafts = page.get("/jobs/?state=draft").content.decode()
    assert "Beta" in drafts and "Alpha" not in drafts
    assert "No job matches" in page.get("/jobs/?search=gamma").content.decode()
    assert "Alpha" not in cast.page("stranger").get("/jobs/").content.decode()


def test_the_list_asks_as_much_for_many_as_for_one(
    cast: Cast, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(12):
        launch(cast, title=f"Job {number}")
    page = cast.page("viewer")
    with django_assert_max_num_queries(12):
        assert page.get("/jobs/").status_code == 200


@pytest.mark.parametrize("state", ["draft", "queued", "cancelled"])
def test_a_job_that_never_ran_has_a_page(cast: Cast, state: str) -> None:
    job = launch(cast, start=state != "draft")
    page = cast.page("teammate")
    if state == "cancelled":
        page.post(reverse("job-verb", args=[job.pk, "cancel"]))
    answer = page.get(reverse("job", args=[job.pk]))
    assert answer.status_code == 200
    assert f'data-state="{state}"' in answer.content.decode()


def test_a_finished_training_shows_its_numbers(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="pretend", params={"steps": 40, "pause": 0}))
    html = cast.page("viewer").get(reverse("job", args=[job.pk])).content.decode()
    for words in ("Pretend training", "Held-out loss", "tokens/s", "Checkpoints", "card_arrival", "Loaded 600 rows"):
        assert words in html, words
    assert "Run again" not in html  # a viewer may not
    log = cast.page("viewer").get(reverse("job-log", args=[job.pk]))
    assert log["Content-Type"].startswith("text/plain")


def test_a_failure_is_explained(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="pretend", params={"steps": 5, "pause": 0, "fail_at": 3}))
    html = cast.page("teammate").get(reverse("job", args=[job.pk])).content.decode()
    assert "It can&#x27;t be done as it was asked for." in html
    assert "The learning rate is too high" in html
    assert "Use a tenth of it." in html
    assert reverse("job-verb", args=[job.pk, "retry"]) in html


def test_a_crash_shows_its_last_words(cast: Cast) -> None:
    job = run_to_end(launch(cast, recipe="misbehave", params={"how": "crash"}))
    html = cast.page("teammate").get(reverse("job", args=[job.pk])).content.decode()
    assert "It stopped with an error that nobody expected." in html
    assert "Traceback (most recent call last):" in html
    assert "{{" not in html and "{%" not in html


def test_buttons_do_and_say(cast: Cast) -> None:
    job = launch(cast, start=False)
    page = cast.page("teammate")
    answer = page.post(reverse("job-verb", args=[job.pk, "start"]), follow=True)
    assert "Queued." in answer.content.decode()
    page.post(reverse("job-verb", args=[job.pk, "cancel"]))
    job.refresh_from_db()
    assert job.state == "cancelled"
    again = page.post(reverse("job-verb", args=[job.pk, "retry"]), follow=True)
    new = Job.objects.get(retry_of=job)
    assert again.redirect_chain[-1][0] == reverse("job", args=[new.pk])
    twice = page.post(reverse("job-verb", args=[job.pk, "cancel"]), follow=True)
    assert "has been cancelled already" in twice.content.decode()
    assert cast.page("viewer").post(reverse("job-verb", args=[new.pk, "cancel"]), follow=True).status_code == 200
    new.refresh_from_db()
    assert new.state == "queued"
    assert page.post(reverse("job-verb", args=[new.pk, "explode"])).status_code == 404


@pytest.mark.parametrize("step", ["x", "-1", "0", "2", "9" * 30, "1.0", "\u0663"])
def test_a_step_without_a_checkpoint_starts_nothing(cast: Cast, step: str) -> None:
    job, page = launch(cast), cast.page("teammate")
    page.post(reverse("job-verb", args=[job.pk, "cancel"]))
    answer = page.post(reverse("job-verb", args=[job.pk, "retry"]), {"from_step": step}, follow=True)
    *_, message = answer.context["messages"]
    assert (answer.status_code, message.level_tag) == (200, "error")
    assert "checkpoint" in str(message)
    assert not Job.objects.filter(retry_of=job).exists()


@pytest.mark.parametrize("name", ["job", "job-log"])
def test_a_stranger_finds_no_page(cast: Cast, name: str) -> None:
    job = launch(cast)
    assert cast.page("stranger").get(reverse(name, args=[job.pk])).status_code == 404
    assert cast.page("stranger").post(reverse("job-verb", args=[job.pk, "cancel"])).status_code == 404


def test_what_users_wrote_is_shown_as_text(cast: Cast) -> None:
    job = launch(cast, title="<script>alert(1)</script>")
    for url in ("/jobs/", reverse("job", args=[job.pk])):
        assert "<script>alert(1)" not in cast.page("viewer").get(url).content.decode()
