"""Suggestions: which changes help most, by which numbers, in which order, and that their steps really do them."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from datasets_app import suggesting, suggestions
from datasets_app.importing import Entry
from datasets_app.models import DatasetVersion
from datasets_app.preparing import Preparation, parse
from datasets_app.suggestions import (
    BLOCKING,
    MOST,
    POLISH,
    RULES,
    WEAK,
    WRONG,
    Facts,
    Leakage,
    Suggestion,
    in_order,
    suggest,
    together,
)
from datasets_app.testing import ready_version
from datasets_app.tests.test_checks import entries, good, report
from project.testing import Cast

Rows = list[dict[str, Any]]


def chat(*roles: str, text: str = "Hello") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{text} {number}"} for number, role in enumerate(roles)]}


def labelled(counts: dict[str, int]) -> Rows:
    rows = [(label, n) for label, count in counts.items() for n in range(count)]
    return [{"prompt": f"{good(1)[0]['prompt']} {label} {n * 7919}", "completion": label} for label, n in rows]


def paired(count: int, chosen: int, rejected: int) -> Rows:
    return [{"prompt": f"p {n}", "chosen": f"c{n} " * chosen, "rejected": f"r{n} " * rejected} for n in range(count)]


# What is wrong with rows -> the suggestion that has to follow, and rows that show it beside 60 that are fine.
CASES: dict[str, Rows] = {
    "empty_answers": [*good(60), {"prompt": "q", "completion": " "}],
    "empty_prompts": [*good(60), {"prompt": " ", "completion": "an answer"}],
    "no_answer": [*(chat("user", "assistant", text=f"hi {n} {n * 7}") for n in range(60)), chat("user", text="alone")],
    "contradictions": [*good(60), {**good(1)[0], "completion": "something else altogether, with other words"}],
    "duplicates": [*good(60), good(1)[0], good(1)[0]],
    "near_duplicates": [*good(60), {**good(1)[0], "completion": good(1)[0]["completion"] + "!"}],
    "credentials": [*good(60), {"prompt": "my key", "completion": "AKIA" + "IOSFODNN7ABCDEFG"}],
    "personal_data": [*good(60), {"prompt": "write to anna@firma.de", "completion": "I will"}],
    "hidden_characters": [*good(60), {"prompt": "in\u200bside", "completion": "yes"}],
    "lengths": [*good(200), {"prompt": "q", "completion": "long " * 5000}],
    "same_answers": [*paired(60, 1, 1), {"prompt": "p", "chosen": "same", "rejected": "same"}],
    "nearly_same_answers": [*paired(60, 1, 1), {"prompt": "p", "chosen": "Same", "rejected": "same"}],
    "length_bias": [*paired(40, 4, 2), *paired(10, 9, 1), *paired(10, 2, 4)],
    "uneven_labels": labelled({"often": 200, "also": 150, "seldom": 10}),
    "spellings": labelled({"Refund": 30, "refund": 30, "card": 30}),
    "nothing_held_out": good(60),
}


def facts(made: dict[str, Any], **known: Any) -> Facts:
    return Facts(report=made, rows=made["summary"]["rows"], row_kind="completion", **known)


def all_of(given: Facts) -> list[Suggestion]:
    """More than are shown."""
    return in_order([*suggestions._of_findings(given), *suggestions._of_figures(given)])


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_wrong_is_suggested_and_its_steps_do_it(tmp_path: Path, name: str) -> None:
    rows = CASES[name]
    given = facts(report(tmp_path, rows))
    one = next(found for found in all_of(given) if found.name == name)
    assert one.title and one.why and one.evidence and one.effect and 0 < one.share <= 1
    assert re.search(r"\d", one.evidence), "no number in the evidence"
    steps = parse([dict(step) for step in one.steps])
    assert steps, "nothing to press"
    run = Preparation(steps, folder=tmp_path / "run", others=lambda name: iter(()))
    left = list(run.rows(entries(tmp_path, "again.jsonl", rows)))
    if name not in ("length_bias", "nothing_held_out"):  # whose steps do a part of it; another version's part
        again = report(tmp_path, [_as_uploaded(entry) for entry in left])
        assert name not in {found.name for found in all_of(facts(again))}
    if told := re.match(r"(At most |About |)([\d,]+) of ([\d,]+) rows remain", one.effect):
        assert int(told[3].replace(",", "")) == len(rows)
        remain = int(told[2].replace(",", ""))
        assert len(left) == remain if not told[1] else len(left) <= remain + 1
    elif re.match(r"All [\d,]+ rows remain", one.effect):
        assert len(left) == len(rows)
        changed = re.search(r"([\d,]+) of them change", one.effect)
        assert changed is None or run.tallies[0].changed == int(changed[1])


def _as_uploaded(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in json.loads(entry.data).items() if name != "kind"}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("one_label", [{"prompt": f"q {n}", "completion": "yes"} for n in range(60)]),
        ("rare_labels", labelled({"a": 30, "b": 30, "c": 2})),
        ("few_rows", good(20)),
        ("length_bias", paired(60, 9, 1)),
        ("broken_characters", [*good(60), {"prompt": "Ã¤hnlich", "completion": "ok"}]),
        ("roles", [*(chat("user", "assistant", text=f"hi {n}") for n in range(60)), chat("assistant", "user")]),
        ("numbers_as_text", [{"prompt": f"q {n}", "completion": n} for n in range(60)]),
        ("uneven_labels", labelled({"often": 900, "seldom": 5, "rare": 6})),
    ],
)
def test_what_only_a_person_can_do_has_no_steps(tmp_path: Path, name: str, rows: Rows) -> None:
    one = next(found for found in all_of(facts(report(tmp_path, rows))) if found.name == name)
    assert one.steps == () and "nly a person" in one.effect


def test_every_rule_has_a_case() -> None:
    tried = {*CASES, "one_label", "rare_labels", "broken_characters", "roles", "numbers_as_text"}
    assert set(RULES) - tried == {"tool_calls", "bad_lines", "left_out"}  # their findings have no steps


def one(name: str, **changes: Any) -> Suggestion:
    words = {"title": name, "evidence": "1", "why": "w", "effect": "e", "figure": "f"}
    return Suggestion(**{"name": name, "rows": 1, "share": 0.1, **words, **changes})


def test_the_order_is_group_then_severity_times_share_times_impact() -> None:
    assert one("x", severity="error", share=0.5, impact=0.4).score == pytest.approx(0.6)
    found = in_order(
        [
            one("cosmetic", group=POLISH, share=1.0, impact=1.0),
            one("weak", group=WEAK, share=1.0, impact=1.0),
            one("little", group=WRONG, share=0.001),
            one("much", group=WRONG, share=0.4),
            one("graver", group=WRONG, share=0.5, severity="error"),
            one("harmful", group=WRONG, share=0.39, impact=0.9),
            one("blocks", group=BLOCKING, share=0.0001, severity="error"),
        ]
    )
    assert [each.name for each in found] == ["blocks", "graver", "harmful", "much", "little", "weak", "cosmetic"]


def test_leakage_and_contradictions_come_before_what_is_cosmetic(tmp_path: Path) -> None:
    hidden = [{**row, "prompt": f"a\u200bb {row['prompt']}"} for row in good(80)]
    rows = [*hidden, {**hidden[0], "completion": "something else altogether"}, hidden[1]]
    given = facts(report(tmp_path, rows), has_held_out=True, leakage=(Leakage("t:1", 1, 2), Leakage("u:1", 0, 0)))
    names = [found.name for found in suggest(given)]
    assert names[:2] == ["leakage", "contradictions"]
    assert names.index("duplicates") < names.index("hidden_characters") and "nothing_held_out" not in names


def test_only_the_best_few_are_given_and_other_apps_compete(tmp_path: Path) -> None:
    rows = [*good(50), good(1)[0], {"prompt": " ", "completion": "anna@firma.de"}, {"prompt": "q", "completion": ""}]
    rows += [{"prompt": "in\u200bside", "completion": "AKIA" + "IOSFODNN7ABCDEFG"}]
    made = report(tmp_path, rows)
    assert len(all_of(facts(made))) > MOST == len(suggest(facts(made)))
    first = one("from elsewhere", group=BLOCKING, share=1.0, severity="error", impact=1.0)
    assert suggest(facts(made, more=(first,)))[0] == first


def test_what_models_are_measured_on_is_neither_split_nor_filled_up(tmp_path: Path) -> None:
    assert suggest(facts(report(tmp_path, good(60)), is_held_out=True)) == []


@pytest.mark.parametrize(
    ("kind", "rows", "by"),
    [
        ("completion", labelled({"a": 40, "b": 40}), "stratified"),
        ("completion", good(60), "random"),
        ("unpaired", [{**row, "label": bool(n % 2)} for n, row in enumerate(good(60))], "random"),
    ],
)
def test_a_tenth_is_held_out_by_label_where_answers_are_labels(tmp_path: Path, kind: str, rows: Rows, by: str) -> None:
    given = replace(facts(report(tmp_path, rows)), row_kind=kind)
    (split,) = next(found.steps for found in suggest(given) if found.name == "nothing_held_out")
    assert split["by"] == by
    for part, least in (("train", 40), ("test", 2)):
        run = Preparation(parse([dict(split)]), folder=tmp_path / part, part=part, others=lambda name: iter(()))
        assert len(list(run.rows(entries(tmp_path, f"{part}.jsonl", rows)))) >= least


def test_few_rows_of_much_text_are_enough(tmp_path: Path) -> None:
    for words, names in ((10, ["few_rows"]), (60_000, [])):
        made = report(tmp_path, [{"text": f"{n} " * words} for n in range(2)])
        given = replace(facts(made, has_held_out=True), row_kind="text")
        assert [found.name for found in suggest(given) if found.name == "few_rows"] == names


def test_good_rows_with_a_held_out_part_need_nothing(tmp_path: Path) -> None:
    assert suggest(facts(report(tmp_path, good(150)), has_held_out=True)) == []


def test_all_of_them_make_one_list_in_an_order_that_works() -> None:
    steps = together(
        [
            [{"type": "split", "parts": {"a": 0.5, "b": 0.5}}],
            [{"type": "drop_duplicates"}, {"type": "redact", "kinds": ["credentials"]}],
            [{"type": "redact"}, {"type": "filter", "condition": "length > 1"}],
            [{"type": "split"}, {"type": "drop_duplicates"}, {"type": "transform", "operation": "normalize"}],
        ]
    )
    assert [step["type"] for step in steps] == ["transform", "redact", "filter", "drop_duplicates", "split"]
    assert steps[1] == {"type": "redact"} and len(steps[-1]["parts"]) == 2
    assert [step.type for step in parse(steps)] == [step["type"] for step in steps]
    by_prompt = {"type": "drop_duplicates", "by": "prompt", "ignore_case": True}
    assert together([[{"type": "drop_duplicates"}], [by_prompt]]) == [by_prompt]


# --- page, API, command

BAD = [*good(60), good(1)[0], {"prompt": "write to anna@firma.de", "completion": "I will"}]


def url(version: DatasetVersion, query: str = "") -> str:
    return f"/api/v1/dataset-versions/{version.pk}/suggestions/{query}"


def named(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [found["name"] for found in answer.json()["suggestions"]]


def test_the_api_the_page_and_the_command_say_the_same(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", BAD)
    answer = cast.api("viewer").get(url(version))
    assert named(answer) == ["personal_data", "few_rows", "nothing_held_out", "duplicates"]
    body = answer.json()
    assert body["suggestions"][3]["effect"] == "61 of 62 rows remain."
    assert body["suggestions"][3]["evidence"] == "One row repeats an earlier one: 1.6 % of 62 rows."
    assert [step["type"] for step in body["steps"]] == ["redact", "drop_duplicates", "split"]
    page = cast.page("teammate").get(version.get_absolute_url()).content.decode()
    assert "Keep one of each repeated row" in page and "61 of 62 rows remain." in page and "Try all of it" in page
    opened = cast.page("teammate").get(body["prepare"]).content.decode()
    assert opened.count('name="types"') == 3 and 'name="types" value="split"' in opened
    viewers = cast.page("viewer").get(version.get_absolute_url()).content.decode()
    assert "Keep one of each repeated row" in viewers and "Try all of it" not in viewers
    assert cast.api("stranger").get(url(version)).status_code == 404
    out = StringIO()
    call_command("suggest_preparation", "pairs", workspace=version.workspace.slug, stdout=out)
    assert "4. Keep one of each repeated row" in out.getvalue() and "{type: drop_duplicates}" in out.getvalue()
    out = StringIO()
    call_command("suggest_preparation", "pairs", "--steps", workspace=version.workspace.slug, stdout=out)
    assert yaml.safe_load(out.getvalue()) == body["steps"]
    report_ = cast.api("viewer").get(f"/api/v1/dataset-versions/{version.pk}/report/").json()
    assert {"what": "suggestions", "url": url(version)} in report_["see_also"]


def test_rows_of_a_held_out_version_are_found_and_dropped(cast: Cast) -> None:
    by = cast.actor("teammate")
    version = ready_version(by, "intents-train", good(120))
    assert named(cast.api("viewer").get(url(version))) == ["nothing_held_out"]
    test = ready_version(by, "intents-test", [good(1)[0], {**good(2)[1], "completion": "other"}, *good(130)[125:]])
    assert suggesting.is_held_out(test) and not suggesting.is_held_out(version)
    answer = cast.api("viewer").get(url(version))
    assert named(answer) == ["leakage"]
    (leak,) = answer.json()["suggestions"]
    assert leak["steps"] == [{"type": "without", "data": "intents-test:1"}] and leak["rows"] == 2
    assert leak["evidence"].startswith("Of the rows of intents-test:1, 1 are here too and 1 are asked")
    preview = cast.api("teammate").post(
        f"/api/v1/dataset-versions/{version.pk}/preview/", {"steps": leak["steps"]}, format="json"
    )
    assert [row["number"] for row in preview.json()["rows"] if not row["after"]] == [1, 2]
    assert named(cast.api("viewer").get(url(test))) == []


def test_any_version_can_be_named_as_held_out(cast: Cast) -> None:
    by = cast.actor("teammate")
    version, other = ready_version(by, "a", good(120)), ready_version(by, "b", good(3))
    assert named(cast.api("viewer").get(url(version, f"?held_out=b:1, {other.pk}"))) == ["leakage", "leakage"]
    assert cast.api("viewer").get(url(version, "?held_out=c")).status_code == 404
    assert cast.api("viewer").get(url(version, "?held_out=" + "b,c,d,e,f,g")).status_code == 400
    with pytest.raises(CommandError, match="no data set"):
        call_command("suggest_preparation", "a", held_out=["c"], workspace=version.workspace.slug, stdout=StringIO())
