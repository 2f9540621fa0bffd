"""The page of steps, without JavaScript: add, order, remove, look, mend, run."""

import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from datasets_app.models import DatasetVersion
from datasets_app.preparing import STEPS, parse
from datasets_app.step_forms import StepForms
from datasets_app.testing import ready_version
from datasets_app.tests.test_preparations import CLEAN, ROWS
from datasets_app.tests.test_steps import params_of
from project.jobs.models import Job
from project.testing import Cast


def text(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode().replace("&quot;", '"').replace("&#x27;", "'"))


def url(version: DatasetVersion) -> str:
    return f"/dataset-versions/{version.pk}/prepare/"


def fields(page: Any) -> dict[str, list[str]]:
    """What a browser would send of the page's form."""
    found: dict[str, list[str]] = {}
    for form in page.context["steps"]:
        found.setdefault("types", []).append(form.plugin.name)
        for name in form.fields:
            value = form[name].value()
            if value not in (None, "", False, []):
                found[form.add_prefix(name)] = (
                    value if isinstance(value, list) else ["on" if value is True else str(value)]
                )
    return {**found, **{name: [str(page.context["target"][name].value() or "")] for name in ("to", "seed", "start")}}


def press(client: Any, version: DatasetVersion, page: Any, do: str, **changes: Any) -> Any:
    return client.post(url(version), {**fields(page), **changes, "do": do})


def kinds(page: Any) -> list[str]:
    return [form.plugin.name for form in page.context["steps"]]


def test_steps_are_added_ordered_removed_and_run(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", ROWS)
    client = cast.page("teammate")
    page = client.get(url(version))
    assert "No step yet" in text(page)
    page = press(client, version, page, "add", step="drop_duplicates")
    page = press(client, version, page, "add", step="filter")
    page = press(client, version, page, "add", step="shuffle")
    assert kinds(page) == ["drop_duplicates", "filter", "shuffle"]
    page = press(client, version, page, "up:2")
    page = press(client, version, page, "down:2")
    assert kinds(page) == ["filter", "shuffle", "drop_duplicates"]
    page = press(client, version, page, "remove:2")
    assert kinds(page) == ["filter", "drop_duplicates"]
    page = press(client, version, page, "preview", **{"s0-condition": "length > 20"})
    said = text(page)
    assert "Dropped by step 1" in said and "the condition is false" in said and "Dropped by step 2" in said
    done = press(client, version, page, "prepare", to="clean", seed="5")
    made = DatasetVersion.objects.get(operation="prepare")
    assert done.status_code == 302 and done["Location"] == f"/dataset-versions/{made.pk}/"
    assert made.steps == [{"type": "filter", "condition": "length > 20"}, {"type": "drop_duplicates"}]
    assert str(made) == "clean:1" and Job.objects.get(pk=made.job_id).params["seed"] == 5


def test_a_link_with_steps_opens_them_with_their_effect(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", ROWS)
    link = f"{url(version)}?{urlencode({'steps': json.dumps([*CLEAN, {'type': 'strip'}])})}"
    page = cast.page("teammate").get(link)
    assert kinds(page) == ["filter", "transform", "drop_duplicates", "transform"]
    assert 'value="length > 10"' in page.content.decode().replace("&gt;", ">")
    assert "Dropped by step 3" in text(page) and "where is my card?" in text(page)
    steps = page.context["steps"]
    assert [step.as_json() for step in parse(steps.raw())] == [*CLEAN, {"type": "transform", "operation": "strip"}]
    wrong = cast.page("teammate").get(f"{url(version)}?steps=%5B")
    assert wrong.status_code == 400 and "The steps are not JSON" in text(wrong)


@pytest.mark.parametrize("name", STEPS.names())
def test_the_form_of_every_step_gives_back_the_step(name: str) -> None:
    step = parse([params_of(name)])[0]
    assert parse(StepForms.of([step.as_json()]).raw())[0].params == step.params
    full = {"type": name, **json.loads(step.params.model_dump_json())}
    full = {field: value for field, value in full.items() if value is not None}
    assert parse(StepForms.of([full]).raw())[0].params == step.params


def test_wrong_steps_are_said_at_their_field_and_nothing_is_lost(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", ROWS)
    client = cast.page("teammate")
    page = press(client, version, client.get(url(version)), "add", step="filter")
    page = press(client, version, page, "add", step="sample")
    wrong = {"s0-condition": "lenght > 3", "s1-rows": "many", "to": "a b"}
    refused = press(client, version, page, "prepare", **wrong)
    assert refused.status_code == 400
    errors = [dict(form.errors) for form in refused.context["steps"]]
    assert "Did you mean 'length'?" in errors[0]["condition"][0] and "rows" in errors[1]
    assert 'value="lenght > 3"' in refused.content.decode().replace("&gt;", ">")
    mended = press(client, version, refused, "prepare", **{"s0-condition": "length > 3", "s1-rows": "2", "to": "a b"})
    assert mended.status_code == 400 and "not a usable name" in text(mended)
    none = client.post(url(version), {"do": "prepare", "to": "x"})
    assert none.status_code == 400 and "Add at least one step" in text(none)
    assert not Job.objects.exists()


def test_pasted_steps_and_other_rows(cast: Cast) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(1, 16)]
    version = ready_version(cast.actor("teammate"), "intents", rows)
    client = cast.page("teammate")
    page = client.post(url(version), {"do": "text", "text": json.dumps([{"type": "uppercase", "part": "answer"}])})
    assert "ANSWER 10" in text(page) and "ANSWER 11" not in text(page)
    page = press(client, version, page, "later")
    assert "ANSWER 11" in text(page) and "rows 11 to 15" in text(page)
    assert "rows 1 to 10" in text(press(client, version, page, "later"))
    kept = client.post(url(version), {"do": "text", "text": "oops"})
    assert "The steps are not JSON" in text(kept) and ">oops</textarea>" in text(kept)


def test_a_split_says_which_data_sets_are_being_made(cast: Cast) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(20)]
    version = ready_version(cast.actor("teammate"), "intents", rows)
    client = cast.page("teammate")
    page = press(client, version, client.get(url(version)), "add", step="split")
    page = press(client, version, page, "preview", **{"s0-parts": "train = 0.8\nvalid = 0.2"})
    assert '<span class="tag">valid</span>' in text(page)
    done = client.post(url(version), {**fields(page), "do": "prepare"}, follow=True)
    assert "intents-train:1, intents-valid:1" in text(done)
    assert sorted(DatasetVersion.objects.exclude(part="").values_list("part", flat=True)) == ["train", "valid"]


def test_viewers_may_not_and_strangers_find_nothing(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", ROWS)
    assert cast.page("viewer").get(url(version)).status_code == 403
    assert cast.page("viewer").post(url(version), {"do": "prepare"}).status_code == 403
    assert cast.page("stranger").get(url(version)).status_code == 404


@pytest.mark.parametrize("digits", ["\u00b2", "9" * 5000, "\u0663"])
def test_what_is_no_plain_number_is_none(digits: str, cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", ROWS)
    client = cast.page("teammate")
    page = press(client, version, client.get(url(version)), "add", step="strip", start=digits, seed=digits)
    page = press(client, version, client.get(url(version)), "add", step="shuffle")
    kept = press(client, version, page, f"remove:{digits}", start=digits, seed=digits)
    assert kept.status_code == 200 and kinds(kept) == ["shuffle"]


def test_steps_of_too_many_characters_stay_on_the_page(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", ROWS)
    sent: dict[str, Any] = {"types": ["transform"] * 21, "do": "remove:50"}
    for number in range(21):
        sent |= {f"s{number}-operation": "replace", f"s{number}-find": "a", f"s{number}-replacement": "b" * 10_000}
    page = cast.page("teammate").post(url(version), sent)
    assert page.status_code == 400 and "The steps have more than 200,000 characters." in text(page)
    assert len(kinds(page)) == 21


def test_the_page_leads_to_where_a_model_puts_rows_in_other_words(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "intents", [{"prompt": "a", "completion": "b"}] * 3)
    page, address = cast.page("teammate"), f"/dataset-versions/{version.pk}/prepare/"
    assert f"/datasets/write/?kind=augment&amp;data={version.pk}" in page.get(address).content.decode()
    refused = page.get(address, {"steps": '[{"type": "paraphrase"}]'})
    assert refused.status_code == 400 and "is a job of its own and no step" in refused.content.decode()
    writing = page.get(f"/datasets/write/?kind=augment&data={version.pk}").content.decode()
    assert f'value="{version.pk}" selected' in writing
