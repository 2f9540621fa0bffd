"""What can be read, how it becomes rows, and what is said when it can't be. No database."""

import json
from pathlib import Path

import pytest

from datasets_app.formats import json as json_format
from datasets_app.importing import Importing, Options
from datasets_app.mapping import UnclearColumns
from datasets_app.reading import FORMATS, Limits
from datasets_app.tests.files import BAD_FILES, PAIRS, imported, jsonl, one_bad_line, write
from project.contracts.plugins import UnknownPlugin
from project.contracts.rows import DatasetDigest, RowKind
from project.contracts.runs import UserError


def said(error: UserError) -> str:
    return f"{error} {error.hint}"


@pytest.mark.parametrize("what", list(BAD_FILES))
def test_a_bad_file_is_refused_with_the_line_or_field_and_what_to_do(tmp_path: Path, what: str) -> None:
    name, content, field, words = BAD_FILES[what]
    with pytest.raises(UserError) as caught:
        imported(write(tmp_path, name, content))
    assert caught.value.field == field
    for word in words:
        assert word in said(caught.value)


# SHA-256 over the SHA-256 of each row's JSON, written out by hand once.
DIGEST = "0e0e957f2d228a7aedcd68fe38dc32e0c5e65467730d2b847391b3228ee3b0c3"


def as_csv(delimiter: str) -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(("prompt", "completion"))]
    lines += [delimiter.join((cell(row["prompt"]), cell(row["completion"]))) for row in PAIRS]
    return "\r\n".join([*lines, ""]).encode()


SAME_ROWS = {
    "rows.jsonl": jsonl(PAIRS),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(PAIRS),
    "blank_lines.jsonl": b"\n\n".join(jsonl(PAIRS).splitlines()),
    "crlf.jsonl": jsonl(PAIRS).replace(b"\n", b"\r\n"),
    "escaped.jsonl": "".join(json.dumps(row) + "\n" for row in PAIRS).encode(),
    "rows.json": json.dumps(PAIRS, ensure_ascii=False).encode(),
    "pretty.json": b"\xef\xbb\xbf" + json.dumps(PAIRS, indent=4).encode(),
    "rows.csv": as_csv(","),
    "excel.csv": b"\xef\xbb\xbf" + as_csv(";"),
    "excel_hint.csv": b"\xef\xbb\xbfsep=;\r\n" + as_csv(";"),
    "rows.tsv": as_csv("\t"),
    "lies.txt": json.dumps(PAIRS).encode(),
}


@pytest.mark.parametrize("name", list(SAME_ROWS))
def test_the_same_rows_have_one_digest_from_any_format(tmp_path: Path, name: str) -> None:
    rows = imported(write(tmp_path, name, SAME_ROWS[name]))
    assert [json.loads(row.data)["completion"] for row in rows] == [pair["completion"] for pair in PAIRS]
    digest = DatasetDigest()
    for row in rows:
        digest.add(row.hash)
    assert digest.hexdigest() == DIGEST


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({"input": "q", "output": "a"}, "completion", {"prompt": "q", "completion": "a"}),
        ({"Prompt": "q", "Completion ": "a"}, "completion", {"prompt": "q", "completion": "a"}),
        ({"prompt": "q", "completion": 3}, "completion", {"prompt": "q", "completion": "3"}),
        ({"instruction": "do", "input": "", "output": "a"}, "completion", {"prompt": "do", "completion": "a"}),
        ({"instruction": "do", "input": None, "output": "a"}, "completion", {"prompt": "do", "completion": "a"}),
        ({"instruction": "do", "input": "it", "output": "a"}, "completion", {"prompt": "do\n\nit", "completion": "a"}),
        (
            {"instruction": "do", "input": "", "output": "a", "system": "be brief", "history": [["x", "y"]]},
            "chat",
            {"roles": ["system", "user", "assistant", "user", "assistant"]},
        ),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}, "chat",
         None),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"}, "chat",
         {"roles": ["system", "user", "assistant"]}),
        ({"messages": [{"role": "developer", "content": [{"type": "text", "text": "q"}]},
                       {"role": "assistant", "content": "a"}]}, "chat", {"roles": ["system", "assistant"]}),
        ({"text": "a long story", "url": "somewhere"}, "text", {"text": "a long story"}),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference", None),
        ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
          "rejected": {"from": "gpt", "value": "b"}}, "preference", None),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired", {"label": True}),
    ],
)  # fmt: skip
def test_known_shapes_are_recognised(
    tmp_path: Path, fields: dict[str, object], kind: str, expected: dict[str, object] | None
) -> None:
    if kind == "chat" and expected is None:  # a row of weight 0 only teaches nothing: give it a companion
        rows = [fields, {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}]
    else:
        rows = [fields]
    entry = imported(write(tmp_path, "rows.jsonl", jsonl(rows)))[0]
    row = json.loads(entry.data)
    assert row.pop("kind") == kind
    if expected and "roles" in expected:
        assert [message["role"] for message in row["messages"]] == expected["roles"]
    elif expected:
        assert expected.items() <= row.items()


def test_other_columns_are_kept_as_meta(tmp_path: Path) -> None:
    rows = [{"id": 7, "prompt": "q", "completion": "a", "tags": ["x", {"y": None}]}]
    assert json.loads(imported(write(tmp_path, "rows.jsonl", jsonl(rows)))[0].meta) == {
        "id": 7,
        "tags": ["x", {"y": None}],
    }


def test_the_user_maps_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", b"text,category\nWhere is it?,card_arrival\n")
    row = json.loads(imported(path, columns={"prompt": "text", "completion": "category"})[0].data)
    assert (row["prompt"], row["completion"]) == ("Where is it?", "card_arrival")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"promt": "text"}, "Did you mean 'prompt'?"),
        ({"prompt": "text", "completion": "categry"}, "Did you mean 'category'?"),
        ({"prompt": "text"}, "prompt and completion"),
        ({"text": "text", "prompt": "text"}, "make no row"),
    ],
)
def test_a_wrong_mapping_is_explained(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    path = write(tmp_path, "rows.csv", b"text,category\nWhere is it?,card_arrival\n")
    with pytest.raises(UserError) as caught:
        imported(path, columns=columns)
    assert caught.value.field == "columns"
    assert words in said(caught.value)


def test_a_text_beside_a_label_is_asked_about_and_a_mapping_suggested(tmp_path: Path) -> None:
    with pytest.raises(UnclearColumns) as caught:
        imported(write(tmp_path, "rows.csv", b"text,category\nWhere is it?,card_arrival\n"))
    assert caught.value.suggestion == {"prompt": "text", "completion": "category"}


def test_bad_lines_are_skipped_when_asked(tmp_path: Path) -> None:
    importing = Importing(write(tmp_path, "rows.jsonl", one_bad_line()), Options(skip_bad_lines=True))
    rows = list(importing.rows())
    assert len(rows) == 9_999
    assert (rows[5_000].number, rows[5_000].line) == (5_001, 5_002)
    assert [line.line for line in importing.bad.first] == [5_001]


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    lines = jsonl(PAIRS * 40).splitlines()
    for number in (3, 50, 120):
        lines[number - 1] = b"oops"
    with pytest.raises(UserError, match=r"3 lines can't be read \(3, 50, 120\)\. Line 3: not valid JSON at column 1"):
        imported(write(tmp_path, "rows.jsonl", b"\n".join(lines)))


def test_a_csv_row_over_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    content = b'prompt,completion\n"a\nb\nc",d\nonly one\n'
    with pytest.raises(UserError, match="Line 5: it has 1 values"):
        imported(write(tmp_path, "rows.csv", content))


def test_a_row_that_is_not_utf8_spoils_no_other(tmp_path: Path) -> None:
    content = b"prompt,completion\na,b\ncaf\xe9,c\nd,e\n"
    importing = Importing(write(tmp_path, "rows.csv", content), Options(skip_bad_lines=True))
    assert [json.loads(row.data)["prompt"] for row in importing.rows()] == ["a", "d"]
    assert [line.line for line in importing.bad.first] == [3]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(bytes=100), "at most 100"),
        (Limits(rows=3), "more than 3 rows"),
        (Limits(line_bytes=50), "longer than 50 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_limits_are_kept(tmp_path: Path, name: str, limits: Limits, words: str) -> None:
    with pytest.raises(UserError, match=words):
        imported(write(tmp_path, name, SAME_ROWS[name]), limits=limits)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_json_is_read_the_same_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    rows = [*PAIRS, {"prompt": "p", "completion": '😀 \\ " ]', "n": [1234567, -0.5e3, True, None, {"k": []}]}]
    path = write(tmp_path, "rows.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    expected = [(row.line, row.data, row.meta) for row in imported(path)]
    monkeypatch.setattr(json_format, "_CHUNK", chunk)
    assert [(row.line, row.data, row.meta) for row in imported(path)] == expected
    assert [line for line, _, _ in expected] == [2, 6, 10, 14, 18]


def test_an_unknown_format_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownPlugin, match="Did you mean 'jsonl'"):
        imported(write(tmp_path, "rows.jsonl", jsonl(PAIRS)), format="json-l")


def test_every_format_loads() -> None:
    assert FORMATS.names() == ["csv", "json", "jsonl"]
    assert not FORMATS.broken()


def test_kinds(tmp_path: Path) -> None:
    assert Importing(write(tmp_path, "rows.jsonl", jsonl(PAIRS)), Options()).kind is RowKind.COMPLETION
