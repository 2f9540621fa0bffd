"""Checks: each finds what it is for, says where, and is quiet about rows that are fine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from datasets_app import credentials
from datasets_app.importing import Entry, Importing, Options, texts
from datasets_app.near import NearDuplicates
from datasets_app.preparing import Preparation, parse
from datasets_app.tests.files import write
from datasets_app.validation import CHECKS, Validation, grave
from project.contracts.rows import ChatRow, Row, row_bytes, row_hash

_PANGRAM = "the quick brown fox jumps over lazy dogs while seven wizards brew strong potions in old copper kettles"
_WORDS = _PANGRAM.split()


def text(number: int) -> str:
    """A sentence unlike the others."""
    return " ".join(_WORDS[(number * step + step) % len(_WORDS)] + str(number) for step in range(1, 9))


def good(count: int) -> list[dict[str, Any]]:
    return [{"prompt": text(n), "completion": f"answer {text(n + 5000)}"} for n in range(count)]


def report(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path = write(folder, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    validation = Validation()
    for entry in Importing(path, Options()).rows():
        validation.see(entry)
    return validation.report((), 0)


def found(made: dict[str, Any], check: str) -> list[dict[str, Any]]:
    return [finding for finding in made["findings"] if finding["check"] == check]


def rows_of(finding: dict[str, Any]) -> list[int]:
    return [example["row"] for example in finding["examples"]]


KINDS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"prompt": "q", "completion": "a"},
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "completion": "a", "label": True},
    {"text": "t"},
]


@pytest.mark.parametrize("check", CHECKS.names())
def test_every_check_takes_every_kind_of_row_and_none(tmp_path: Path, check: str) -> None:
    empty = CHECKS.get(check).Check()
    assert list(empty.findings()) == []
    json.dumps(dict(empty.figures()))
    for number, row in enumerate(KINDS):
        made = CHECKS.get(check).Check()
        for entry in entries(tmp_path, f"{number}.jsonl", [row] * 3):
            made.see(entry)
        for finding in made.findings():
            assert finding.check == check and finding.count > 0 and len(finding.examples) <= 20
            assert all("type" in step for step in finding.fix)
        json.dumps(dict(made.figures()), allow_nan=False)


def entries(folder: Path, name: str, rows: list[dict[str, Any]]) -> list[Entry]:
    path = write(folder, name, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return list(Importing(path, Options()).rows())


def entry(number: int, row: Row) -> Entry:
    return Entry(number, number, row, texts(row), row_bytes(row).decode(), "{}", row_hash(row), ())


def test_good_rows_have_no_findings(tmp_path: Path) -> None:
    assert report(tmp_path, good(60))["findings"] == []


def test_one_bad_row_in_a_hundred_is_fatal_and_one_in_a_thousand_is_not(tmp_path: Path) -> None:
    assert (grave(10, 1000), grave(9, 1000)) == ("error", "warning")
    empty = {"prompt": "anything", "completion": " "}
    (one,) = found(report(tmp_path, [*good(100), empty]), "empty_fields")
    assert one["severity"] == "warning"
    (several,) = found(report(tmp_path, [*good(98), empty, {**empty, "prompt": "more"}]), "empty_fields")
    assert several["severity"] == "error" and rows_of(several) == [99, 100]


def test_near_duplicates_are_found_whatever_the_script(tmp_path: Path) -> None:
    japanese = "明日の東京の天気はどうなりますか、傘を持って行ったほうがいいでしょうか。"
    japanese += "それとも晴れますか。今週末の京都の天気も教えてください。"
    english = "I would like to know why my transfer has not arrived in my account after three working days"
    rows = [
        *good(10),
        {"prompt": japanese, "completion": "雨です。"},
        {"prompt": english, "completion": "transfer_late"},
        {"prompt": english.upper() + "!", "completion": "transfer_late"},
        {"prompt": japanese[:-1], "completion": "雨です。"},
        {"prompt": english, "completion": "transfer_late"},  # an exact one is not named again
    ]
    (finding,) = found(report(tmp_path, rows), "near_duplicates")
    assert rows_of(finding) == [13, 14]
    assert "row 12" in finding["examples"][0]["text"] and "row 11" in finding["examples"][1]["text"]
    assert finding["fix"][0]["type"] == "near_duplicates"


def test_similarity_is_estimated_near_the_truth() -> None:
    def shingles(given: str) -> set[str]:
        return {given[n : n + 5] for n in range(len(given) - 4)}

    one = " ".join(text(n) for n in range(5))
    other = one.replace("wizards", "doctors").replace("kettles", "bottles")
    truth = len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))
    texts = NearDuplicates(threshold=0.5)
    for given in (one, other):
        texts.add(given)
    ((later, earlier, share),) = texts.repeats()
    assert (later, earlier) == (1, 0) and share == pytest.approx(truth, abs=0.2)


def test_labels_are_counted_and_judged(tmp_path: Path) -> None:
    answers = ["refund"] * 60 + ["card"] * 30 + ["Card "] * 6 + ["rare"] * 2
    made = report(tmp_path, [{"prompt": text(n), "completion": answer} for n, answer in enumerate(answers)])
    figure = made["figures"]["labels"]
    assert (figure["different"], figure["most"], figure["least"], figure["others"]) == (4, 60, 2, 0)
    assert figure["shown"][0] == {"label": "refund", "rows": 60}
    titles = " ".join(finding["title"] for finding in found(made, "labels"))
    assert "'refund' has 60 rows, 'rare' 2" in titles
    assert "One label has fewer than 5 rows" in titles
    assert "One label is written in more than one way" in titles


def test_ten_thousand_labels_are_counted_and_a_few_shown(tmp_path: Path) -> None:
    rows = [{"prompt": text(n), "completion": f"label {n % 10_000}"} for n in range(20_000)]
    figure = report(tmp_path, rows)["figures"]["labels"]
    assert (figure["different"], len(figure["shown"]), figure["others"]) == (10_000, 50, 19_900)


def test_one_label_for_everything_is_fatal(tmp_path: Path) -> None:
    (finding,) = found(report(tmp_path, [{"prompt": text(n), "completion": "yes"} for n in range(30)]), "labels")
    assert finding["severity"] == "error" and "All 30 answers are the same" in finding["title"]


def test_contradicting_answers_are_found(tmp_path: Path) -> None:
    rows = [
        *good(3),
        {"prompt": "Where is  my card?", "completion": "a"},
        {"prompt": "where is my card?", "completion": "b"},
    ]
    (finding,) = found(report(tmp_path, rows), "contradictions")
    assert rows_of(finding) == [5] and "row 4" in finding["examples"][0]["text"]


def test_personal_data_and_keys_are_found(tmp_path: Path) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLA"
    rows = [
        *good(5),
        {"prompt": "Write to jane.roe@example.com", "completion": "Done"},
        {"prompt": "Which key?", "completion": f"It is {key}."},
    ]
    made = report(tmp_path, rows)
    (personal,), (keys,) = found(made, "personal_data"), found(made, "credentials")
    assert (
        rows_of(personal) == [6] and personal["severity"] == "warning" and "prompt" in personal["examples"][0]["text"]
    )
    assert rows_of(keys) == [7] and keys["severity"] == "error" and "AWS Access Key" in keys["advice"]
    assert key not in json.dumps(made)


@pytest.mark.parametrize(
    ("secret", "kind"),
    [
        ("ghp_" + "a1B2" * 9, "GitHub Token"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "Private Key"),
        ("sk_" + "live_" + "a1B2c3D4" * 3, "Stripe Access Key"),
        ("xoxb-" + "123456789012-123456789012-abcdefGHIJ".lower(), "Slack Token"),
        ("SG." + "a" * 22 + "." + "b" * 43, "SendGrid API Key"),
    ],
)
def test_credentials_of_known_issuers(secret: str, kind: str) -> None:
    (piece,) = credentials.find(f"use {secret} here")
    assert piece.kind == kind
    assert not credentials.find("my card is in the post, and my password is none of your business")


def test_pairs_that_teach_nothing_or_length(tmp_path: Path) -> None:
    long, short = "a much longer answer with many more words in it", "brief"
    rows = [{"prompt": text(n), "chosen": f"{long} {n}", "rejected": f"{short} {n}"} for n in range(60)]
    rows += [{"prompt": "x", "chosen": "same", "rejected": "same"}, {"prompt": "y", "chosen": "Yes", "rejected": "yes"}]
    made = report(tmp_path, rows)
    same, nearly, bias = sorted(
        found(made, "preferences"), key=lambda finding: finding["count"] + len(finding["title"])
    )
    titles = {same["title"], nearly["title"], bias["title"]}
    assert "One pair has the same answer twice" in titles
    assert any("100% of the pairs the longer answer" in title for title in titles)
    assert made["figures"]["preferences"]["chosen_longer"] == 60


def test_invisible_and_broken_characters(tmp_path: Path) -> None:
    fine = {"prompt": "مرحبا 👩‍👩‍👧 東京 café", "completion": "نعم"}
    rows = [*good(3), fine, {"prompt": "zero\u200bwidth", "completion": "a"}, {"prompt": "cafÃ©", "completion": "b"}]
    made = found(report(tmp_path, rows), "characters")
    assert sorted(row for finding in made for row in rows_of(finding)) == [5, 6]


def test_tool_calls_have_to_be_possible(tmp_path: Path) -> None:
    def chat(arguments: str, tool: str = "weather", *, answered: bool = True) -> dict[str, Any]:
        call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": arguments}}
        answer = [{"role": "tool", "tool_call_id": "call_1", "content": "18 °C"}] if answered else []
        return {
            "messages": [
                {"role": "user", "content": "How warm is it in Rome?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                *answer,
                {"role": "assistant", "content": "18 degrees."},
            ],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        }

    check = CHECKS.get("tool_calls").Check()
    rows = [chat('{"city": "Rome"}'), chat("{city: Rome}"), chat("[1]"), chat("{}", "time"), chat("{}", answered=False)]
    for number, row in enumerate(rows, 1):
        check.see(entry(number, ChatRow.model_validate(row)))
    made = [asdict(finding) for finding in check.findings()]
    assert {(tuple(rows_of(finding)), finding["severity"]) for finding in made} == {
        ((2, 3), "error"),
        ((4,), "warning"),
        ((5,), "warning"),
    }


TALK = {"messages": [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Good morning"}]}
BROKEN: dict[str, list[dict[str, Any]]] = {
    "duplicates": [*good(4), good(1)[0]],
    "near_duplicates": [*good(4), {**good(1)[0], "prompt": text(0).upper()}],
    "empty_fields": [*good(4), {"prompt": "q", "completion": " "}],
    "contradictions": [*good(4), {"prompt": text(1), "completion": "something else entirely"}],
    "personal_data": [*good(4), {"prompt": "Write to jane.roe@example.com", "completion": "Done"}],
    "credentials": [*good(4), {"prompt": "Which key?", "completion": "AKIA" + "IOSFODNN7EXAMPLA"}],
    "characters": [*good(4), {"prompt": "zero\u200bwidth", "completion": "a"}],
    "lengths": [*good(150), {"prompt": "long " * 2000, "completion": "a"}],
    "labels": [{"prompt": text(n), "completion": "Card " if n % 2 else "card"} for n in range(40)],
    "preferences": [{"prompt": "q", "chosen": "b", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "c"}],
    "roles": [TALK, {"messages": [{"role": "user", "content": "Hello?"}]}],
}


@pytest.mark.parametrize("check", list(BROKEN))
def test_the_offered_steps_mend_what_was_found(tmp_path: Path, check: str) -> None:
    before = report(tmp_path, BROKEN[check])
    # Labels also have findings that only more rows can mend.
    mendable = [finding for finding in found(before, check) if finding["fix"]]
    assert mendable
    for finding in mendable:
        preparation = Preparation(parse(list(finding["fix"])), folder=tmp_path)
        after = Validation()
        for row in preparation.rows(entries(tmp_path, "rows.jsonl", BROKEN[check])):
            after.see(row)
        left = {found["title"] for found in after.report((), 0)["findings"]}
        assert finding["title"] not in left
