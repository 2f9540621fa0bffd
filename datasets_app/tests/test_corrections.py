"""Rows corrected by hand: kept for the person, shown, and made a version of; the old version stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets_app.corrections import texts, with_texts
from datasets_app.models import DatasetVersion
from datasets_app.preparing import StepError, StepErrors, parse
from datasets_app.testing import ready_version
from datasets_app.tests.test_rows_pages import page, url
from datasets_app.tests.test_steps import KINDS, entry, of, prepare
from project.contracts.rows import ROW
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.testing import Cast

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(1, 30)]


def edit(client: Any, version: DatasetVersion, number: int, **said: str) -> Any:
    return client.post(url(version, f"rows/{number}/edit/"), said)


def test_corrections_are_kept_and_saved_as_one_version(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    client = cast.page("teammate")
    form = page(client.get(url(version, "rows/25/edit/")))
    assert "question 25</textarea>" in form and "answer 25</textarea>" in form
    kept = edit(client, version, 25, **{"text-1": "a better answer\r\nin two lines"})
    assert kept.status_code == 302 and kept["Location"] == url(version, "rows/", "?row=25#row-25")
    assert edit(client, version, 3, do="leave-out").status_code == 302
    rows = page(client.get(url(version, "rows/", "?row=25")))
    assert "2 corrections" in rows and "a better answer in two lines" in rows and "Corrected" in rows
    assert "will be left out" in page(client.get(url(version, "rows/3/edit/")))
    saved = client.post(url(version, "corrections/"), {"do": "save"})
    assert saved.status_code == 302
    assert run_to_end(Job.objects.order_by("-pk")[0]).state == "succeeded"
    made = DatasetVersion.objects.get(parent=version)
    assert (made.dataset_id, made.number, made.rows) == (version.dataset_id, 2, 28)
    new = page(client.get(url(made, "rows/", "?search=better")))
    assert "in two lines" in new and "1 of 28 rows" in new
    assert "not saved" not in page(client.get(url(version, "rows/"))), "what is saved is no longer pending"
    assert "answer 25" in page(client.get(url(version, "rows/", "?row=25"))), "the old version stays"


def test_a_correction_is_taken_back_and_is_nobody_elses(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    client = cast.page("teammate")
    edit(client, version, 2, **{"text-1": "other"})
    assert "not saved" in page(client.get(url(version, "rows/")))
    assert "not saved" not in page(cast.page("owner").get(url(version, "rows/")))
    edit(client, version, 2, do="undo")
    assert "not saved" not in page(client.get(url(version, "rows/")))
    edit(client, version, 2, **{"text-1": "other"})
    client.post(url(version, "corrections/"), {"do": "drop"})
    nothing = client.post(url(version, "corrections/"), {"do": "save"}, follow=True)
    assert "Nothing was corrected yet" in page(nothing)
    assert not DatasetVersion.objects.filter(parent=version).exists()


@pytest.mark.parametrize("name", ["viewer", "stranger"])
def test_who_may_not_prepare_may_not_correct(cast: Cast, name: str) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    client = cast.page(name)
    assert client.get(url(version, "rows/1/edit/")).status_code in (403, 404)
    assert edit(client, version, 1, **{"text-1": "other"}).status_code in (403, 404)
    if name == "viewer":
        assert "Edit row 1" not in page(client.get(url(version, "rows/")))


def test_rows_that_are_not_there_and_too_many_corrections(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    client = cast.page("teammate")
    assert client.get(url(version, "rows/0/edit/")).status_code == 404
    assert client.get(url(version, "rows/30/edit/")).status_code == 404
    monkeypatch.setattr("datasets_app.corrections._LONGEST", 300)
    long = edit(client, version, 1, **{"text-1": "x" * 400})
    assert "Save those that are there first" in page(long, 400) and "x" * 400 in page(long, 400)


def test_characters_count_as_one_in_every_script(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", [{"prompt": "问题", "completion": "答" * 40_000}])
    client = cast.page("teammate")
    assert edit(client, version, 1, **{"text-0": "问题？"}).status_code == 302
    assert client.post(url(version, "corrections/"), {"do": "save"}).status_code == 302
    assert DatasetVersion.objects.get(parent=version).steps[0]["rows"][0]["row"]["prompt"] == "问题？"


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_text_of_every_kind_can_be_corrected(kind: str) -> None:
    row = json.loads(ROW.validate_python(KINDS[kind]).model_dump_json(exclude_none=True))
    found = texts(row)
    changed = with_texts(row, {text.name: f"new {text.name}" for text in found})
    assert [text.text for text in texts(changed)] == [f"new {text.name}" for text in found]
    assert ROW.validate_python(changed).kind == kind
    assert with_texts(row, {text.name: text.text for text in found}) == row


def test_line_ends_that_a_browser_changed_are_no_correction() -> None:
    row = {"kind": "text", "text": "one\r\ntwo\rthree\n"}
    assert with_texts(row, {"text-0": "one\r\ntwo\r\nthree\r\n"}) == row


def test_the_step_changes_the_row_that_is_meant(tmp_path: Path) -> None:
    same = {"kind": "completion", "prompt": "a", "completion": "b"}
    rows = [entry(same, 1), entry(same, 2), entry({**same, "prompt": "c"}, 3)]
    other = {**same, "completion": "corrected"}
    one = {"type": "correct", "rows": [{"hash": rows[0].hash, "number": 2, "row": other}]}
    assert of(prepare(rows, one, folder=tmp_path)[0]) == [("a", "b"), ("a", "corrected"), ("c", "b")]
    both = {"type": "correct", "rows": [{"hash": rows[0].hash, "row": None}]}
    assert of(prepare(rows, both, folder=tmp_path)[0]) == [("c", "b")]
    chat = {"type": "correct", "rows": [{"hash": rows[2].hash, "row": KINDS["chat"]}]}
    with pytest.raises(StepError, match="row 3: a completion row can't become a chat row"):
        prepare(rows, chat, folder=tmp_path)


def test_a_correction_whose_row_is_not_there_is_told(tmp_path: Path) -> None:
    same = {"kind": "completion", "prompt": "a", "completion": "b"}
    rows = [entry(same, 1), entry({**same, "prompt": "c"}, 2)]
    given = [{"hash": rows[0].hash, "row": None}, {"hash": rows[1].hash, "number": 7}, {"hash": "0" * 64}]
    found, preparation = prepare(rows, {"type": "correct", "rows": given}, folder=tmp_path)
    assert of(found) == [("c", "b")]
    assert preparation.tallies[0].notes == {"corrections of rows that are not there": 2}


@pytest.mark.parametrize("row", [{"kind": "completion", "prompt": "a"}, {"kind": "poem"}, 7])
def test_what_is_no_row_is_refused(row: Any) -> None:
    with pytest.raises(StepErrors):
        parse([{"type": "correct", "rows": [{"hash": "0" * 64, "row": row}]}])


def test_a_very_long_row_is_not_put_into_a_form(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "long", [{"prompt": "q", "completion": "x" * 100_001}])
    answer = cast.page("teammate").get(url(version, "rows/1/edit/"))
    assert answer.status_code == 409 and "too long to be edited" in answer.content.decode()
