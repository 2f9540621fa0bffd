"""The pages of a version, without JavaScript: its report, its rows, another version beside it, the block."""

import json
import re
from typing import Any

import pytest

from datasets_app.models import DatasetVersion
from datasets_app.testing import ready_version
from datasets_app.tests.files import PAIRS
from project.testing import Cast

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(1, 46)]


def page(answer: Any, status: int = 200) -> str:
    assert answer.status_code == status, answer.content.decode()[-2000:]
    return re.sub(r"\s+", " ", answer.content.decode().replace("&quot;", '"').replace("&#x27;", "'"))


def url(version: DatasetVersion, what: str = "", query: str = "") -> str:
    return f"/dataset-versions/{version.pk}/{what}{query}"


def test_rows_are_paged_and_a_finding_leads_to_its_row(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", [*ROWS, ROWS[0]])
    client = cast.page("viewer")
    assert f'href="{url(version, "rows/")}?row=46#row-46"' in page(client.get(url(version)))
    first = page(client.get(url(version, "rows/")))
    assert "question 20<" in first and "question 21<" not in first and "?page=2" in first
    for query in ("?page=3", "?row=46", "?page=999"):
        last = page(client.get(url(version, "rows/", query)))
        assert "question 41<" in last and 'id="row-46"' in last
    assert "question 1<" in page(client.get(url(version, "rows/", "?page=-1&row=x")))


def test_rows_are_searched_and_hits_are_marked(cast: Cast) -> None:
    late = {"prompt": "word " * 400 + "<needle>", "completion": "here"}
    version = ready_version(cast.actor("teammate"), "pairs", [*ROWS, late])
    client = cast.page("viewer")
    hit = page(client.get(url(version, "rows/", "?search=%3CNEEDLE%3E")))
    assert "<mark>&lt;needle&gt;</mark>" in hit and "1 of 46 rows" in hit
    assert hit.index("<mark>") < hit.index("All 2 008 characters")  # in what is shown at once
    many = page(client.get(url(version, "rows/", "?search=question&page=2")))
    assert "Rows 21 to 40 of those found" in many and "search=question&amp;page=3" in many
    assert "No row matches" in page(client.get(url(version, "rows/", "?search=nowhere")))
    longest = page(client.get(url(version, "rows/", "?sort=-characters")))
    assert longest.index('id="row-46"') < longest.index('id="row-10"')
    assert "least_turns: Use a whole number" in page(client.get(url(version, "rows/", "?least_turns=x")), 400)


def test_labels_are_drawn_and_lead_to_their_rows(cast: Cast) -> None:
    rows = [{"prompt": f"question {n}", "completion": "a & b" if n % 3 else "other"} for n in range(30)]
    version = ready_version(cast.actor("teammate"), "pairs", rows)
    client = cast.page("viewer")
    overview = page(client.get(url(version)))
    assert "2 different answers in 30 rows" in overview
    address = re.search(r'href="([^"]+answer=a[^"]+)"', overview)
    assert address and "20 of 30 rows" in page(client.get(address[1]))


def test_of_many_labels_the_page_lists_the_frequent_ones_and_finds_the_others(cast: Cast) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"label {n % 90:02}"} for n in range(260)]
    version = ready_version(cast.actor("teammate"), "pairs", rows)
    client = cast.page("viewer")
    overview = page(client.get(url(version)))
    assert "90 different answers in 260 rows" in overview
    assert "110 rows have one of the other 40 labels" in overview
    rare = page(client.get(url(version, "rows/", "?answer=label%2085")))
    assert "2 of 260 rows" in rare
    assert '<option value="label 85" selected>label 85</option>' in rare, "the filter has to show what it filters by"


def test_a_version_is_compared_with_the_one_before(cast: Cast) -> None:
    old = ready_version(cast.actor("teammate"), "old", ROWS)
    new = ready_version(cast.actor("teammate"), "new", [*ROWS[1:], {**ROWS[0], "completion": "corrected"}])
    client = cast.page("viewer")
    assert "Compare with another version" in page(client.get(url(old, "compare/")))
    assert client.get(url(old, "compare/", f"?to={new.pk}&show=everything")).status_code == 200
    changed = page(client.get(url(old, "compare/", f"?to={new.pk}")))
    assert "44 rows are the same" in changed and "corrected" in changed and "answer 1<" in changed
    assert "None" in page(client.get(url(old, "compare/", f"?to={new.pk}&show=added")))
    leaks = page(client.get(url(old, "compare/", f"?to={new.pk}&show=leakage")))
    assert "44 are also in old:1 with the same answer, and 1 ask" in leaks
    assert "There is no data set" in page(client.get(url(old, "compare/", "?to=nothing")), 404)


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "openai"])
def test_rows_are_downloaded_from_the_page(cast: Cast, format: str) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    client = cast.page("viewer")
    assert f"export/?format={format}" in page(client.get(url(version)))
    answer = client.get(url(version, "export/", f"?format={format}"))
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="pairs-1.')
    assert len(b"".join(answer.streaming_content)) > 100  # type: ignore[attr-defined]


def test_a_blocked_version_says_why_and_an_operator_lifts_it(cast: Cast) -> None:
    rows = [{"prompt": "Which key?", "completion": "AKIA" + "IOSFODNN7EXAMPLA"}, *PAIRS]
    version = ready_version(cast.actor("teammate"), "pairs", rows)
    editor = page(cast.page("teammate").get(url(version)))
    assert "It can't be trained on" in editor and "ask an operator" in editor and "Fine-tune on it" not in editor
    assert cast.page("teammate").post(url(version, "lift-block/"), {"reason": "x"}).status_code == 403
    operator = cast.page("operator")
    assert "Lift the block" in page(operator.get(url(version)))
    refused = operator.post(url(version, "lift-block/"), {"reason": " "}, follow=True)
    assert "Say why" in page(refused)
    lifted = page(operator.post(url(version, "lift-block/"), {"reason": "The manual's example."}, follow=True))
    assert "The block was lifted" in lifted and "The manual's example." in lifted and "Fine-tune on it" in lifted


def test_a_finding_offers_the_steps_that_mend_it(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", [*PAIRS, PAIRS[0]])
    findings = {finding["check"]: finding for finding in version.report["findings"]}
    assert findings["duplicates"]["fix"] == [{"type": "drop_duplicates"}]
    json.dumps(version.report)


def test_strangers_find_none_of_it(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    stranger = cast.page("stranger")
    for what in ("", "rows/", "compare/", "export/"):
        assert stranger.get(url(version, what)).status_code == 404
    assert stranger.post(url(version, "lift-block/"), {"reason": "x"}).status_code == 404
