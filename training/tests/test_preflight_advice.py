"""What follows from a preflight: suggestions with steps, and lengths in tokens for every row kind."""

import json
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.urls import reverse

from datasets_app.models import DatasetVersion
from datasets_app.preparing import parse
from datasets_app.suggestions import in_order
from datasets_app.testing import ready_version
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.testing import Cast
from registry.models import ModelVersion
from training import suggestions
from training.models import Preflight

PERCENTILES = {"50": 60, "90": 90, "95": 100, "99": 180, "100": 190}


def preflight(base: ModelVersion, data: DatasetVersion, flags: dict[str, int], **result: Any) -> Preflight:
    """One that has ended with these counts of 200 rows, cut at 128 tokens."""
    counted = {"rows": 200, "tokens": 20_000, "kept": 10_000, "learned": 3_000, "percentiles": PERCENTILES}
    found = Preflight(base_version=base, data_version=data, max_seq_length=128, views_id=uuid4())
    found.result = {**counted, "flags": flags, **result}
    return found


def report(total: int = 80_000, answers: int = 100, **figures: Any) -> dict[str, Any]:
    lengths = {"rows": {"total": total}, "answers": {"percentiles": {"95": answers}}}
    return {"figures": {"lengths": lengths, **figures}}


@pytest.fixture
def looked_at(cast: Cast) -> DatasetVersion:
    rows = [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(60)]
    return ready_version(cast.actor("teammate"), "looked-at", rows)


@pytest.mark.parametrize(
    ("flags", "figures", "result", "wanted"),
    [
        ({}, {}, {}, {}),
        ({"cut": 9}, {}, {}, {}),  # only what is not learned is cut
        ({"refused": 1}, {}, {}, {"refused": []}),
        ({"no_answer": 20}, {}, {}, {"no_answer": [{"type": "filter", "condition": 'strip(answer) != ""'}]}),
        (
            {"no_answer": 20},
            {"tool_calls": {"rows": 3}},
            {},
            {"no_answer": [{"type": "filter", "condition": '"assistant" in roles'}]},
        ),
        (
            {"cut_answer": 3, "answer_lost": 2},
            {},
            {},
            {
                "longer_rows": [],
                "shorter_prompts": [
                    {"type": "truncate", "characters": 360, "part": "prompt", "cut": "middle", "mark": "…"}
                ],
            },
        ),
        (
            {"cut_answer": 5},
            {"answers": 400},
            {"percentiles": {**PERCENTILES, "95": 9_000, "90": 9_000, "99": 9_000, "100": 9_999}},  # much too long
            {"long_rows": [{"type": "filter", "condition": "length <= 460"}]},
        ),
        (
            {"cut_answer": 150},
            {"answers": 400},
            {"percentiles": {**PERCENTILES, "90": 50, "95": 50}},
            {
                "longer_rows": [],
                "long_rows": [],  # dropping them would leave too few
            },
        ),
        ({}, {}, {"learned": 100}, {"little_learned": []}),
        (
            {},
            {"roles": {"with_system": 180}},
            {"learned": 100},
            {"little_learned": [{"type": "system_prompt", "mode": "remove"}]},
        ),
    ],
)
def test_counts_lead_to_steps(
    base: ModelVersion,
    looked_at: DatasetVersion,
    flags: dict[str, int],
    figures: dict[str, Any],
    result: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    looked_at.report = report(**figures)
    found = in_order(suggestions.of(preflight(base, looked_at, flags, **result)))
    assert {one.name: [dict(step) for step in one.steps] for one in found} == wanted
    for one in found:
        assert one.why and one.effect and 0 < one.share <= 1 and "In the tokens of tiny:1: " in one.evidence
        if one.steps:
            parse([dict(step) for step in one.steps])
        else:
            assert one.url or "nly a person" in one.effect
    if "shorter_prompts" in wanted:
        assert found[0].title == "Train with a max_seq_length of 192" and "max_seq_length=192" in found[0].url
        assert found[0].effect.startswith("All 200 rows have at most so many")


def test_lengths_are_offered_then_shown_beside_the_report(cast: Cast, base: ModelVersion) -> None:
    rows = [{"prompt": f"say {n}", "completion": "word " * (40 if n % 10 == 0 else 2)} for n in range(120)]
    data = ready_version(cast.actor("teammate"), "answers", rows)
    api, address = cast.api("viewer"), data.get_absolute_url()
    before = cast.page("teammate").get(address).content.decode()
    assert "Lengths in tokens" in before and f"{reverse('preflight-new')}?data={data.pk}" in before
    assert "Lengths in tokens" not in cast.page("viewer").get(address).content.decode()  # nothing to see or to press
    cast.api("teammate").post(f"/api/v1/dataset-versions/{data.pk}/preflight/", {"base": "tiny", "max_seq_length": 64})
    assert "what is learned" not in cast.page("viewer").get(address).content.decode()  # it has not run
    found = Preflight.objects.get()
    assert api.get(f"/api/v1/preflights/{found.pk}/suggestions/").json()["suggestions"] == []
    assert run_to_end(found.job).state == "succeeded"
    found.refresh_from_db()

    after = cast.page("viewer").get(address).content.decode()
    assert f'href="{found.get_absolute_url()}">what is learned' in after and "cut at 64" in after
    assert f"Longer than 64</dt><dd>{found.result['flags']['cut_answer']} rows" in after
    told = api.get(f"/api/v1/dataset-versions/{data.pk}/report/").json()["see_also"]
    (link,) = [one for one in told if one["what"] == "lengths in tokens"]
    assert link["base"] == "tiny:1" and link["percentiles"] == found.result["percentiles"]
    assert api.get(link["url"]).json()["id"] == str(found.pk)

    body = api.get(f"/api/v1/preflights/{found.pk}/suggestions/").json()
    names = [one["name"] for one in body["suggestions"]]
    assert names[0] == "longer_rows" and len(names) == 2 and body["steps"]
    of_version = api.get(f"/api/v1/dataset-versions/{data.pk}/suggestions/").json()["suggestions"]
    assert set(names) <= {one["name"] for one in of_version}
    page = cast.page("teammate").get(found.get_absolute_url()).content.decode()
    assert "What would help most" in page and "Look again at" in page and "Try it" in page
    assert f"/dataset-versions/{data.pk}/prepare/?steps=" in page
    preview = cast.api("teammate").post(
        f"/api/v1/dataset-versions/{data.pk}/preview/", {"steps": body["steps"]}, format="json"
    )
    assert preview.status_code == 200, preview.content
    out = StringIO()
    call_command(
        "preflight", "--data", "answers", "--base", "tiny", "--max-seq-length", "64", workspace="acme", stdout=out
    )
    assert "Suggestion: Train with a max_seq_length of" in out.getvalue()
    assert cast.api("stranger").get(f"/api/v1/preflights/{found.pk}/suggestions/").status_code == 404


KINDS: dict[str, list[dict[str, Any]]] = {
    "preference": [{"prompt": f"say {n}", "chosen": "yes " * n, "rejected": "no"} for n in range(1, 41)],
    "text": [{"text": f"text {n} " * n} for n in range(1, 41)],
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_other_kinds_of_rows_have_lengths_without_a_mask(cast: Cast, base: ModelVersion, kind: str) -> None:
    data = ready_version(cast.actor("teammate"), "others", KINDS[kind])
    page = cast.page("teammate")
    form = {"dataset_version": str(data.pk), "base": str(base.pk), "max_seq_length": "64"}
    address = page.post(reverse("preflight-new"), form).headers["Location"]
    assert page.get(address).status_code == 200  # before it has run
    job = run_to_end(Job.objects.get(recipe="token_lengths"))
    assert job.state == "succeeded", job.failure_message
    assert "learned_share" not in job.result
    html = page.get(address).content.decode()
    assert "Tokens that are learned" not in html
    cut = kind != "text"  # texts are learned in pieces
    assert ("Rows that are longer" in html) == ("rows cut at 64" in html) == cut and ("pieces of 64" in html) != cut
    assert ("Better answers" in html) == (kind == "preference")
    found = Preflight.objects.get()
    body = cast.api("viewer").get(f"/api/v1/preflights/{found.pk}/").json()
    assert body["learned_share"] is None and (body["result"]["flags"]["too_long"] > 0) == cut
    rows = cast.api("viewer").get(f"/api/v1/preflights/{found.pk}/rows/?flag=too_long").json()
    assert rows["count"] == body["result"]["flags"]["too_long"]
    overview = page.get(data.get_absolute_url()).content.decode()
    assert "row by row" in overview and ("cut at 64" in overview) == ("Longer than 64" in overview) == cut
    assert json.dumps(found.result)
    retried = cast.api("teammate").post(f"/api/v1/dataset-versions/{data.pk}/preflight/", {"base": "tiny"})
    assert retried.status_code == 201


def test_conversations_need_a_template_and_texts_do_not(
    cast: Cast, base: ModelVersion, speechless: ModelVersion
) -> None:
    by, api = cast.actor("teammate"), cast.api("teammate")
    pairs, texts = (ready_version(by, kind, KINDS[kind]) for kind in ("preference", "text"))
    refused = api.post(f"/api/v1/dataset-versions/{pairs.pk}/preflight/", {"base": str(speechless.pk)})
    assert refused.status_code == 400 and "no chat template" in str(refused.json()["errors"]["base"])
    asked = api.post(f"/api/v1/dataset-versions/{texts.pk}/preflight/", {"base": str(speechless.pk)})
    assert asked.status_code == 201
