"""Rows over the API: filters, search, two versions beside each other, downloads, and the block of fatal findings."""

import csv
import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.core.management import CommandError, call_command

from datasets_app import finder
from datasets_app.exporting import EXPORTS
from datasets_app.importing import Importing, Options
from datasets_app.models import DatasetVersion
from datasets_app.testing import ready_version
from datasets_app.tests.files import PAIRS
from project.kernel.models import AuditEntry
from project.testing import Cast

ROWS = [
    {"prompt": "Where is my card?", "completion": "card_arrival", "id": 1},
    {"prompt": 'It says "declined" (50 %)', "completion": "card_declined", "id": 2},
    {"prompt": "ΠΟΎ είναι η κάρτα;", "completion": "card_arrival", "id": 3},
    {"prompt": "a much longer question about fees and exchange rates abroad", "completion": "fees", "id": 4},
]
CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "The capital of France?"},
            {"role": "assistant", "content": "Paris"},
        ],
        "source": "a",
    },
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "score": 0.5},
]


def address(version: DatasetVersion | str, what: str, **parameters: Any) -> str:
    from urllib.parse import urlencode

    name = version if isinstance(version, str) else version.pk
    return f"/api/v1/dataset-versions/{name}/{what}/?{urlencode(parameters)}"


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"search": "CARD?"}, [1]),
        ({"search": '"declined" (50 %)'}, [2]),
        ({"search": "που"}, []),
        ({"search": "κάρτα"}, [3]),
        ({"search": "prompt"}, []),  # a key of the JSON, not a text
        ({"answer": "card_arrival"}, [1, 3]),
        ({"answer_has": "CARD_"}, [1, 2, 3]),
        ({"answer_has": "card_", "search": "where"}, [1]),
        ({"least_characters": 50}, [4]),
        ({"most_learned": 4}, [4]),
        ({"least_turns": 3}, []),
        ({"synthetic": "true"}, []),
        ({"sort": "-characters", "limit": 2}, [4, 2]),
        ({"sort": "-number"}, [4, 3, 2, 1]),
    ],
)
def test_rows_are_filtered_searched_and_sorted(cast: Cast, asked: dict[str, Any], numbers: list[int]) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    page = cast.api("viewer").get(address(version, "rows", **asked)).json()
    assert [row["number"] for row in page["results"]] == numbers


def test_a_filtered_list_is_paged_and_counted(cast: Cast) -> None:
    rows = [{"prompt": f"question {n}", "completion": "even" if n % 2 == 0 else "odd"} for n in range(1, 101)]
    api, version = cast.api("viewer"), ready_version(cast.actor("teammate"), "pairs", rows)
    first = api.get(address(version, "rows", answer="even", limit=20)).json()
    assert (first["count"], first["previous"]) == (50, None)
    second = api.get(first["next"]).json()
    assert [row["number"] for row in second["results"]][:2] == [42, 44]
    searched = api.get(address(version, "rows", search="question", limit=20)).json()
    assert searched["count"] is None and searched["next"]
    last = api.get(address(version, "rows", search="question 9", limit=20)).json()
    assert (last["count"], last["next"]) == (11, None)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"most_turns": "9" * 5000}, "most_turns"),
        ({"limit": "9" * 5000}, "limit"),
        ({"offset": "9" * 5000}, "offset"),
        ({"serch": "x"}, "serch"),
        ({"least_characters": "-1"}, "least_characters"),
        ({"most_turns": "many"}, "most_turns"),
        ({"synthetic": "perhaps"}, "synthetic"),
        ({"sort": "row"}, "sort"),
        ({"search": "x" * 501}, "search"),
        ({"limit": "501"}, "limit"),
    ],
)
def test_a_wrong_filter_names_the_field(cast: Cast, asked: dict[str, Any], field: str) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    refused = cast.api("viewer").get(address(version, "rows", **asked))
    assert refused.status_code == 400 and list(refused.json()["errors"]) == [field]


def test_synthetic_rows_are_counted_and_found(cast: Cast) -> None:
    rows = [*PAIRS, {"prompt": "p", "completion": "c", "synthetic": "typos"}]
    version = ready_version(cast.actor("teammate"), "pairs", rows)
    api = cast.api("viewer")
    assert api.get(f"/api/v1/dataset-versions/{version.pk}/").json()["synthetic_rows"] == 1
    assert [row["number"] for row in api.get(address(version, "rows", synthetic="true")).json()["results"]] == [5]


def test_two_versions_are_compared_by_what_their_rows_say(cast: Cast) -> None:
    old = ready_version(cast.actor("teammate"), "old", [*ROWS, ROWS[0], {"prompt": "gone", "completion": "x"}])
    new_rows = [ROWS[3], ROWS[0], {**ROWS[1], "completion": "declined"}, ROWS[2], {"prompt": "new", "completion": "y"}]
    new = ready_version(cast.actor("teammate"), "new", new_rows)
    api = cast.api("viewer")
    added = api.get(address(old, "diff", to=new.pk)).json()
    # One of the two equal rows is gone; the order makes no difference.
    assert added["counts"] == {"added": 1, "removed": 2, "changed": 1, "same": 3}
    assert [pair["new"]["row"]["prompt"] for pair in added["results"]] == ["new"] and added["results"][0]["old"] is None
    removed = api.get(address("old", "diff", to="new", show="removed")).json()
    assert [pair["old"]["number"] for pair in removed["results"]] == [5, 6]
    (changed,) = api.get(address(old, "diff", to=new.pk, show="changed")).json()["results"]
    assert (changed["old"]["row"]["completion"], changed["new"]["row"]["completion"]) == ("card_declined", "declined")
    assert api.get(address(old, "diff", to=old.pk)).json()["counts"]["same"] == 6


def test_rows_that_leak_into_the_held_out_part_are_found(cast: Cast) -> None:
    learned = ready_version(cast.actor("teammate"), "train", ROWS)
    held = [ROWS[2], {"prompt": "where is  my CARD?", "completion": "other"}, {"prompt": "unseen", "completion": "x"}]
    held_out = ready_version(cast.actor("teammate"), "test", held)
    page = cast.api("viewer").get(address(learned, "leakage", to="test")).json()
    assert (page["same"], page["same_question"], page["count"]) == (1, 1, 2)
    assert [(pair["old"]["number"], pair["new"]["number"]) for pair in page["results"]] == [(3, 1), (1, 2)]
    assert held_out.rows == 3


def test_held_out_rows_that_are_almost_learned_are_found(cast: Cast) -> None:
    question = "Why has my transfer to a friend in Spain not arrived after three working days"
    learned = ready_version(cast.actor("teammate"), "train", [*ROWS, {"prompt": question, "completion": "late"}])
    ready_version(cast.actor("teammate"), "test", [ROWS[0], {"prompt": f"{question}?!", "completion": "late"}])
    api = cast.api("viewer")
    page = api.get(address(learned, "leakage", to="test", near="true")).json()
    assert (page["near"], page["compared"]) == (1, [5, 2])
    assert [(pair["old"]["number"], pair["new"]["number"]) for pair in page["results"]] == [(5, 2)]
    assert list(api.get(address(learned, "leakage", to="test", near="x")).json()["errors"]) == ["near"]
    shown = cast.page("viewer").get(f"/dataset-versions/{learned.pk}/compare/?to=test&show=similar")
    assert "1 rows of test:1 ask almost the same" in shown.content.decode()


@pytest.mark.parametrize("what", ["diff", "leakage"])
def test_a_comparison_needs_another_version_one_may_see(cast: Cast, what: str) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    ready_version(cast.actor("stranger"), "theirs", ROWS)
    api = cast.api("viewer")
    assert list(api.get(address(version, what)).json()["errors"]) == ["to"]
    assert api.get(address(version, what, to="theirs")).status_code == 404
    assert cast.api("stranger").get(address(version, what, to="theirs")).status_code == 404


def exported(cast: Cast, version: DatasetVersion, name: str) -> bytes:
    answer = cast.api("viewer").get(address(version, "export", format=name))
    assert answer.status_code == 200, answer.content
    assert f"{version.dataset.name}-1." in answer.headers["Content-Disposition"]
    return b"".join(answer.streaming_content)


ALL_KINDS = {
    "completion": ROWS,
    "chat": CHAT,
    "preference": [{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "by": "me"}],
    "unpaired": [{"prompt": "Hi", "completion": "Hello!", "label": False}],
    "text": [{"text": "Once upon,\n a \"time\""}, {"text": "東京"}],
}  # fmt: skip


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("kind", list(ALL_KINDS))
def test_what_is_exported_comes_back_with_the_same_digest(cast: Cast, tmp_path: Path, kind: str, name: str) -> None:
    version = ready_version(cast.actor("teammate"), "rows", ALL_KINDS[kind])
    path = tmp_path / f"rows.{name}"
    path.write_bytes(exported(cast, version, name))
    hashes = [entry.hash for entry in Importing(path, Options()).rows()]
    stored = cast.api("viewer").get(address(version, "rows")).json()["results"]
    assert hashes == [row["hash"] for row in stored]


def test_a_csv_has_the_columns_of_all_rows(cast: Cast) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c, d", "completion": "e", "meta_prompt": 1, "late": None}]
    version = ready_version(cast.actor("teammate"), "pairs", rows)
    content = exported(cast, version, "csv").decode("utf-8-sig")
    assert list(csv.DictReader(io.StringIO(content))) == [
        {"prompt": "a", "completion": "b", "meta_prompt": "", "late": ""},
        {"prompt": "c, d", "completion": "e", "meta_prompt": "1", "late": ""},
    ]


def lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def test_the_shapes_of_other_programs(cast: Cast) -> None:
    chat = ready_version(cast.actor("teammate"), "chat", CHAT)
    assert lines(exported(cast, chat, "openai"))[0] == {"messages": CHAT[0]["messages"]}
    turns = lines(exported(cast, chat, "sharegpt"))[0]["conversations"]
    assert [(turn["from"], turn["value"]) for turn in turns][:2] == [("system", "Be brief"), ("human", "Hi")]
    assert lines(exported(cast, chat, "alpaca"))[0] == {
        "instruction": "The capital of France?",
        "input": "",
        "output": "Paris",
        "system": "Be brief",
        "history": [["Hi", "Hello"]],
    }
    pairs = ready_version(cast.actor("teammate"), "preferences", ALL_KINDS["preference"])
    assert lines(exported(cast, pairs, "openai")) == [
        {
            "input": {"messages": [{"role": "user", "content": "Hi"}]},
            "preferred_output": [{"role": "assistant", "content": "Hello!"}],
            "non_preferred_output": [{"role": "assistant", "content": "What?"}],
        }
    ]
    assert lines(exported(cast, pairs, "sharegpt"))[0]["rejected"] == {"from": "gpt", "value": "What?"}


def test_a_format_that_is_unknown_or_cannot_hold_the_rows_is_refused(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "texts", ALL_KINDS["text"])
    api = cast.api("viewer")
    for name, words in (("xlsx", "Known: " + ", ".join(EXPORTS)), ("alpaca", "can't hold text rows")):
        refused = api.get(address(version, "export", format=name))
        assert refused.status_code == 400 and words in refused.json()["errors"]["format"][0]
    assert cast.api("stranger").get(address(version, "export")).status_code == 404


def test_a_download_that_nobody_reads_gives_its_place_back(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    for _ in range(10):
        answer = cast.api("viewer").get(address(version, "export"))
        assert answer.status_code == 200
        for close in answer._resource_closers:  # `close()` would also end the database's connection
            close()


# --- the block

FATAL = [{"prompt": "Which key?", "completion": "AKIA" + "IOSFODNN7EXAMPLA"}, *PAIRS]


def test_a_fatal_finding_blocks_until_an_operator_says_why_not(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", FATAL)
    url = f"/api/v1/dataset-versions/{version.pk}/"
    assert cast.api("viewer").get(url).json()["blocked"] is True
    assert cast.api("teammate").post(f"{url}lift-block/", {"reason": "x"}).status_code == 403
    assert cast.api("stranger").post(f"{url}lift-block/", {"reason": "x"}).status_code == 404
    operator = cast.api("operator")
    for body in ({}, {"reason": "  "}, {"reason": "x" * 1001}):
        assert list(operator.post(f"{url}lift-block/", body).json()["errors"]) == ["reason"]
    lifted = operator.post(f"{url}lift-block/", {"reason": "It is the example key of the manual."})
    assert lifted.status_code == 200 and lifted.json()["blocked"] is False
    assert "operator" in lifted.json()["lifted_by"] and lifted.json()["lifted_at"]
    entry = AuditEntry.objects.get(verb="dataset.block_lifted")
    assert entry.data["reason"].startswith("It is the example") and entry.data["findings"]
    assert operator.post(f"{url}lift-block/", {"reason": "again"}).status_code == 409


def test_good_data_is_not_blocked(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", PAIRS)
    assert version.blocked is False


# --- the process that searches


def test_a_search_survives_the_end_of_its_process(cast: Cast) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    api = cast.api("viewer")
    assert api.get(address(version, "rows", search="my card")).json()["count"] == 1
    running = [helper for helper in finder._helpers if helper._process is not None]
    assert running
    for helper in running:
        assert helper._process
        helper._process.kill()
        helper._process.wait()
    assert api.get(address(version, "rows", search="my card")).json()["count"] == 1


def test_a_search_that_takes_too_long_is_ended(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", ROWS)
    monkeypatch.setattr(finder, "PATIENCE", 0.0)
    answer = cast.api("viewer").get(address(version, "rows", search="card"))
    assert answer.status_code == 503 and "took longer" in answer.json()["detail"]
    assert all(helper._process is None for helper in finder._helpers[-1:])


# --- from a shell


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
def test_an_export_that_ends_early_leaves_only_what_others_wrote(
    cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    ready_version(cast.actor("teammate"), "pairs", FATAL)
    theirs = tmp_path / "out.jsonl.partial"
    theirs.write_text("of another run")
    with monkeypatch.context() as full, pytest.raises((SystemExit, CommandError, MemoryError)):
        full.setattr("os.fsync", Mock(side_effect=error))
        call_command("export_dataset", "pairs", output=tmp_path / "out.jsonl", workspace="acme")
    assert list(tmp_path.iterdir()) == [theirs]
    call_command("export_dataset", "pairs", output=tmp_path / "out.jsonl", workspace="acme")
    assert set(tmp_path.iterdir()) == {theirs, tmp_path / "out.jsonl"}


def test_a_version_is_exported_and_its_block_lifted_from_a_shell(cast: Cast, tmp_path: Path) -> None:
    version = ready_version(cast.actor("teammate"), "pairs", FATAL)
    file = tmp_path / "out.jsonl"
    call_command("export_dataset", "pairs", format="openai", output=file, workspace="acme")
    assert len(lines(file.read_bytes())) == len(FATAL) and not list(tmp_path.glob("*.partial"))
    with pytest.raises(CommandError, match="Known: jsonl"):
        call_command("export_dataset", "pairs", format="xlsx", output=file, workspace="acme")
    with pytest.raises(CommandError, match="can't be written"):
        call_command("export_dataset", "pairs", output=tmp_path / "none" / "out.jsonl", workspace="acme")
    call_command("lift_block", "pairs:1", reason="The manual's example.", workspace="acme")
    version.refresh_from_db()
    assert not version.blocked and version.lifted_reason == "The manual's example."
