"""What can be read, how it becomes rows, and what is said when it can't be. No database."""

import datetime
import gzip
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard

from datasets_app.formats import _arrow_sizes
from datasets_app.formats import _strict_json as strict_json
from datasets_app.formats import json as json_format
from datasets_app.importing import Importing, Options, look, texts
from datasets_app.mapping import UnclearColumns
from datasets_app.reading import FORMATS, HEAD_BYTES, Limits, Source
from datasets_app.tests.files import BAD_FILES, PAIRS, imported, jsonl, one_bad_line, parquet, parquet_bomb, write
from project.contracts.plugins import UnknownPlugin
from project.contracts.rows import ROW, DatasetDigest, RowKind, row_bytes, row_hash
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
        ({"completion": "text"}, "prompt and completion"),
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


@pytest.mark.parametrize("skip", [False, True], ids=["refused", "skipped"])
def test_bad_lines_before_the_first_row(tmp_path: Path, skip: bool) -> None:
    importing = Importing(write(tmp_path, "rows.jsonl", b'{"oops\n' * 150 + jsonl(PAIRS)), Options(skip_bad_lines=skip))
    if skip:
        assert [row.line for row in importing.rows()] == [151, 152, 153, 154]
    else:
        with pytest.raises(UserError, match="150 lines can't be read"):
            list(importing.rows())
    assert (importing.bad.count, len(importing.bad.first)) == (150, 100)


MIB = 1024**2
LONG = {
    "bad at first, then good": b'{"oops\n' + b'{"prompt": "a", "completion": "b"}\n' * (24 * MIB // 35),
    "good, then bad": jsonl(PAIRS) + b'{"oops}\n' * 10 + b'{"prompt": "a", "completion": "b"}\n' * (24 * MIB // 35),
    "one line": b'{"prompt": "' + b"x" * 40 * MIB,
    "blank lines": b'{"oops\n' + (b" " * 999 + b"\n") * (40 * MIB // 1000),
}


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize("what", list(LONG))
def test_a_look_at_a_long_file_ends_soon_whatever_it_holds(tmp_path: Path, what: str, packing: str) -> None:
    content = gzip.compress(LONG[what], 1) if packing else LONG[what]
    path = write(tmp_path, f"rows.jsonl{packing}", content)
    most = 22 * MIB  # 2 MiB are enough; a line may have 8 MiB, and without a row it goes on for 16
    importing: list[Importing] = []
    with pytest.raises(UserError, match=r"Line \d:|lines can't be read"):
        importing.append(Importing(path, Options(format="jsonl"), up_to=2 * MIB))
        importing[0].check()
    assert all(one.source.unpacked <= most for one in importing)
    sources: list[Source] = []
    options = Options(format="jsonl")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Options, "source", lambda *args: sources.append(Source(path)) or sources[0])
        look(path, options)
    assert sources[0].unpacked <= most


def test_a_csv_row_over_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    content = b'prompt,completion\n"a\nb\nc",d\nonly one\n'
    with pytest.raises(UserError, match="Line 5: it has 1 values"):
        imported(write(tmp_path, "rows.csv", content))


def test_a_row_that_is_not_utf8_spoils_no_other(tmp_path: Path) -> None:
    content = b"prompt,completion\na,b\ncaf\xe9,c\nd,caf\xc3\xa9\n"
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
    assert FORMATS.names() == ["arrow", "csv", "folder", "json", "jsonl", "parquet", "text", "tsv"]
    assert not FORMATS.broken()


def test_kinds(tmp_path: Path) -> None:
    assert Importing(write(tmp_path, "rows.jsonl", jsonl(PAIRS)), Options()).kind is RowKind.COMPLETION


# --- encodings and packing


def as_encoded(encoding: str, text: str) -> bytes:
    return f"prompt,completion\n{text},yes\n".encode(encoding)


ENCODED = {
    "utf-16": "東京の天気は？ 👍",
    "utf-16-le": "Where is it? é",
    "utf-16-be": "Where is it? é",
    "utf-32": "Where is it? é",
    "utf-8-sig": "naïve “quotes”",
    "cp1252": "naïve “quotes” cost 5 €",
    "cp1250": "příliš žluťoučký kůň",
    "cp1251": "Где моя карта? Она ещё не пришла",
    "cp1254": "Kartım nerede? Şişe ağaç",
    "cp932": "東京の天気は？晴れです。",
    "euc_jp": "東京の天気は？晴れです。",
    "iso2022_jp": "東京の天気は？晴れです。",
    "gb18030": "我的卡在哪里？它还没有到。",
    "cp949": "내 카드는 어디에 있나요?",
    "cp1256": "أين بطاقتي؟ لم تصل بعد",
}


@pytest.mark.parametrize("encoding", list(ENCODED))
def test_an_encoding_is_found_and_said(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "rows.csv", as_encoded(encoding, ENCODED[encoding]))
    importing = Importing(path, Options())
    assert [json.loads(row.data)["prompt"] for row in importing.rows()] == [ENCODED[encoding]]
    assert "encoded as" in importing.detected.evidence


@pytest.mark.parametrize(
    ("encoding", "said_as"), [("cp437", "cp437"), ("iso8859-15", "latin9"), ("mac-roman", "mac_roman"),
                              ("cp932", "Shift_JIS"), ("utf-16-be", "utf_16_be"), ("cp866", "CP866")],
)  # fmt: skip
def test_an_encoding_can_be_said(tmp_path: Path, encoding: str, said_as: str) -> None:
    text = {"cp932": "質問", "cp866": "Где", "utf-16-be": "日本"}.get(encoding, "café £")
    path = write(tmp_path, "rows.csv", as_encoded(encoding, text))
    assert json.loads(imported(path, encoding=said_as)[0].data)["prompt"] == text


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-9", "is no encoding"), ("rot13", "is no encoding"), ("idna", "is no encoding"),
                            ("cp1252", "byte order mark of UTF-16")],
)  # fmt: skip
def test_a_wrong_encoding_is_explained(tmp_path: Path, encoding: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        imported(write(tmp_path, "rows.csv", as_encoded("utf-16", "a")), encoding=encoding)
    assert caught.value.field == "encoding"


def test_a_byte_that_the_said_encoding_does_not_have_is_named(tmp_path: Path) -> None:
    content = "prompt,completion\nq,a\n質,問\n".encode("cp932") + b"\x81,x\n"
    importing = Importing(write(tmp_path, "rows.csv", content), Options(encoding="shift_jis", skip_bad_lines=True))
    assert len(list(importing.rows())) == 2
    assert importing.bad.first[0].line == 4 and "0x81" in importing.bad.first[0].reason
    assert "Shift-JIS" in importing.bad.first[0].reason


def test_lines_of_old_macs_end_with_carriage_returns(tmp_path: Path) -> None:
    rows = imported(write(tmp_path, "rows.csv", b"prompt,completion\ra,b\rc,d\r"))
    assert [json.loads(row.data)["prompt"] for row in rows] == ["a", "c"]


PACKED = {
    "rows.jsonl.gz": lambda data: gzip.compress(data),
    "rows.jsonl.zst": lambda data: zstandard.compress(data),
    "two members.jsonl.gz": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "two frames.jsonl.zst": lambda data: zstandard.compress(data[:100]) + zstandard.compress(data[100:]),
    "padded.jsonl.gz": lambda data: gzip.compress(data) + b"\0" * 512,
    "named wrongly.csv": lambda data: gzip.compress(data),
}


@pytest.mark.parametrize("name", list(PACKED))
def test_packed_files_are_unpacked_as_they_stream_by(tmp_path: Path, name: str) -> None:
    importing = Importing(write(tmp_path, name, PACKED[name](jsonl(PAIRS * 500))), Options())
    assert [row.number for row in importing.rows()] == list(range(1, 2001))
    assert "unpacked from" in importing.detected.evidence
    assert importing.source.position == importing.source.size
    assert importing.source.unpacked == len(jsonl(PAIRS * 500))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("line", [b"\n", b'{"prompt": "a", "completion": "b"}\n', b"x" * 10**6], ids=len)
def test_a_bomb_stops_at_the_cap(tmp_path: Path, pack: Callable[[bytes], bytes], line: bytes) -> None:
    start = b'{"prompt": "a", "completion": "b"}\n'
    path = write(tmp_path, "rows.jsonl", pack(start + line * (20_000_000 // len(line))))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="unpacks to more than 6,000,000 bytes"):
        imported(path, limits=Limits(unpacked_bytes=6_000_000), skip_bad_lines=True)


# --- Parquet, Arrow, folders


def test_parquet_gives_what_json_lines_give(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "q é"}, {"role": "assistant", "content": "a 👍"}]
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    columns: dict[str, list[Any]] = {
        "messages": [talk, [*talk[:1], {"role": "assistant", "content": "b", "weight": 0}]],
        "score": [0.5, float("nan")],
        "when": [when, None],
        "blob": [b"\xff\x00", b"text"],
    }
    rows = imported(write(tmp_path, "data", parquet(columns)))
    assert [json.loads(row.data)["messages"] for row in rows] == columns["messages"]
    assert [json.loads(row.meta) for row in rows] == [
        {"score": 0.5, "when": "2026-01-02T03:04:05", "blob": "/wA="},
        {"score": None, "when": None, "blob": "text"},
    ]


def test_a_parquet_bomb_of_one_row_or_many_stops_at_the_cap(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.parquet", parquet_bomb())
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="unpacks to more than 50,000,000"):
        imported(path, limits=Limits(line_bytes=2**30, unpacked_bytes=50_000_000))
    with pytest.raises(UserError, match="has 1,000 rows; at most 100"):
        imported(path, limits=Limits(rows=100))


@pytest.mark.parametrize("new", ["file", "stream"])
def test_arrow_files_and_streams(tmp_path: Path, new: str) -> None:
    table = pa.table({"prompt": ["a", "b"], "completion": ["c", "d"]})
    path = tmp_path / "rows.arrow"
    make = pa.ipc.new_file if new == "file" else pa.ipc.new_stream
    with make(str(path), table.schema) as writer:
        writer.write_table(table)
    assert [json.loads(row.data)["completion"] for row in imported(path)] == ["c", "d"]


def arrow(table: pa.Table, form: str, packing: str | None = None) -> bytes:
    out = io.BytesIO()
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with make(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as writer:
        writer.write_table(table, max_chunksize=300)
    return out.getvalue()


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("packing", [None, "lz4", "zstd"])
def test_packed_arrow_is_read_batch_after_batch(tmp_path: Path, form: str, packing: str | None) -> None:
    completions = [f"answer {number % 7} " * 20 for number in range(1000)]
    columns = {"prompt": [f"q {number}" for number in range(1000)], "n": list(range(1000))}
    table = pa.table({**columns, "completion": pa.array(completions).dictionary_encode()})
    path = write(tmp_path, "rows.arrow", arrow(table, form, packing))
    assert [json.loads(row.data)["completion"] for row in imported(path)] == completions


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("packing", ["lz4", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True], ids=["plain", "dictionary"])
def test_an_arrow_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, form: str, packing: str, dictionary: bool
) -> None:
    texts = pa.array(["x" * 10_000_000])
    table = pa.table({"text": texts.dictionary_encode() if dictionary else texts})
    path = write(tmp_path, "rows.arrow", arrow(table, form, packing))
    assert path.stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    with pytest.raises(UserError, match="unpacks to more than 5,000,000 bytes") as caught:
        imported(path, limits=Limits(line_bytes=2**30, unpacked_bytes=5_000_000))
    assert "_add" in [entry.name for entry in caught.traceback]  # judged by its header
    assert pool.bytes_allocated() <= before


@pytest.mark.parametrize("form", ["file", "stream"])
def test_a_batch_that_is_nothing_but_padding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = write(tmp_path, "rows.arrow", arrow(pa.table({"text": ["x" * 2_000_000]}), form, "zstd"))
    assert len(imported(path)) == 1
    monkeypatch.setattr(_arrow_sizes, "_AT_ONCE", 1_000_000)
    with pytest.raises(UserError, match="at most 1,000,000 are taken at once"):
        imported(path)
    monkeypatch.setattr(_arrow_sizes, "_SUSPICIOUS", 1_000_000)
    with pytest.raises(UserError, match="which no data does"):
        imported(path)


@pytest.mark.parametrize("form", ["file", "stream"])
def test_damaged_arrow_is_refused_whatever_byte_it_is(tmp_path: Path, form: str) -> None:
    content = arrow(pa.table({"text": ["a", "b"]}), form, "zstd")
    for position in range(8, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        with suppress(UserError):
            imported(write(tmp_path, "rows.arrow", bytes(damaged)))
    with pytest.raises(UserError, match="damaged Arrow file"):
        imported(write(tmp_path, "rows.arrow", content[: len(content) * 3 // 4]))


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(PAIRS * 5)
    rows.save_to_disk(str(tmp_path / "one"), num_shards=3)
    datasets.DatasetDict({"train": rows, "test": rows.select(range(2))}).save_to_disk(str(tmp_path / "two"))
    found = imported(tmp_path / "one")
    assert [json.loads(row.data)["prompt"] for row in found] == [pair["prompt"] for pair in PAIRS * 5]
    assert len(imported(tmp_path / "two")) == 20
    assert len(imported(tmp_path / "two", split="test")) == 2
    with pytest.raises(UserError, match="no split 'tset'") as caught:
        imported(tmp_path / "two", split="tset")
    assert caught.value.field == "split" and "train, test" in caught.value.hint


def test_a_folder_of_files_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in (1, 2, 10):
        write(folder, f"part-{number}.jsonl", jsonl([{"prompt": f"{number}", "completion": "x"}]))
    write(folder, "notes.bin", b"\0")
    assert [json.loads(row.data)["prompt"] for row in imported(folder)] == ["1", "2", "10"]
    write(folder, "part-11.jsonl", b'{"prompt": \n')
    with pytest.raises(UserError, match=r"Line 1: part-11\.jsonl: not valid JSON"):
        imported(folder)


@pytest.mark.parametrize("name", ["{outside}", "../other", "..", ".", "", "link", "sub/train", 5, None, {"a": 1}])
def test_a_saved_folder_that_names_splits_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    folder, other = tmp_path / "data", tmp_path / "other"
    for one in (folder / "sub" / "train", other):
        one.mkdir(parents=True)
        write(one, "rows.jsonl", jsonl(PAIRS))
    (folder / "link").symlink_to(other)
    name = str(other) if name == "{outside}" else name
    write(folder, "dataset_dict.json", json.dumps({"splits": [name]}).encode())
    with pytest.raises(UserError, match="which is not a file or folder in it"):
        imported(folder)


@pytest.mark.parametrize("name", ["../other.jsonl", "link.jsonl", "..", None])
def test_a_saved_folder_that_names_files_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "rows.jsonl", jsonl(PAIRS))
    (folder / "link.jsonl").symlink_to(write(tmp_path, "other.jsonl", jsonl(PAIRS)))
    write(folder, "state.json", json.dumps({"_data_files": [{"filename": name}]}).encode())
    with pytest.raises(UserError, match="which is not a file or folder in it"):
        imported(folder)


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"[]", b"oops", b'{"_data_files": 5}', b'{"_data_files": ["rows.jsonl"]}'], ids=len
)
def test_a_saved_folder_with_a_damaged_listing_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "rows.jsonl", jsonl(PAIRS))
    write(tmp_path, "state.json", content)
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        imported(tmp_path)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "parquet", "arrow"])
def test_the_limits_are_those_of_a_folder_not_of_each_file(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"prompt": f"question {n}", "completion": f"{n} " * 500} for n in range(50)]
    columns = {name: [row[name] for row in rows] for name in ("prompt", "completion")}
    for number in range(4):
        match kind:
            case "gzip":
                write(folder, f"part-{number}.jsonl.gz", gzip.compress(jsonl(rows)))
            case "zstd":
                write(folder, f"part-{number}.jsonl.zst", zstandard.compress(jsonl(rows)))
            case "parquet":
                write(folder, f"part-{number}.parquet", parquet(columns, use_dictionary=False))
            case "arrow":
                table = pa.table(columns)
                options = pa.ipc.IpcWriteOptions(compression="zstd")
                with pa.ipc.new_file(str(folder / f"part-{number}.arrow"), table.schema, options=options) as file:
                    file.write(table)
    each = len(jsonl(rows))
    assert len(imported(folder, limits=Limits(unpacked_bytes=5 * each, rows=200))) == 200
    with pytest.raises(UserError, match=r"data unpacks to more than .* part-[12]"):
        imported(folder, limits=Limits(unpacked_bytes=2 * each + 1))
    with pytest.raises(UserError, match="data has more than 199 rows"):
        imported(folder, limits=Limits(rows=199))


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "notes.bin", b"\0")
    with pytest.raises(UserError, match="a folder without a file of rows"):
        imported(tmp_path)


# --- texts and JSON in other forms


def test_plain_text_is_lines_or_paragraphs(tmp_path: Path) -> None:
    assert [json.loads(row.data)["text"] for row in imported(write(tmp_path, "a.txt", b"one\ntwo\n\n"))] == [
        "one",
        "two",
    ]
    rows = imported(write(tmp_path, "b.txt", b"one\nline\n\n \ntwo\r\nlines\n"))
    assert [json.loads(row.data)["text"] for row in rows] == ["one\nline", "two\r\nlines"]
    assert [row.line for row in rows] == [1, 5]


def test_the_beginning_of_a_text_is_searched_for_paragraphs_in_one_pass(tmp_path: Path) -> None:
    blank = b"one\n" + b"\n" * HEAD_BYTES + b"two\n"  # takes minutes where each newline is tried as a beginning
    assert [json.loads(row.data)["text"] for row in imported(write(tmp_path, "a.txt", blank))] == ["one", "two"]
    spaced = b"one\n" + b" \n" * HEAD_BYTES
    assert [json.loads(row.data)["text"] for row in imported(write(tmp_path, "b.txt", spaced))] == ["one"]


JSON_FORMS = {
    "wrapped": b'{"version": 1, "data": [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]}',
    "then more": b'{"data": [{"prompt": "a", "completion": "b"},\n{"prompt": "c", "completion": "d"}], "n": 2}',
    "over several lines": b'{\n"prompt": "a", "completion": "b"\n}\n{\n"prompt": "c",\n"completion": "d"\n}\n',
}


@pytest.mark.parametrize("form", list(JSON_FORMS))
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_json_in_the_forms_people_have(tmp_path: Path, form: str, name: str) -> None:
    rows = imported(write(tmp_path, name, JSON_FORMS[form]))
    assert [json.loads(row.data)["prompt"] for row in rows] == ["a", "c"]


DOUBLES = ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b" : 2}}', '{"a" :1,"a":2}', '[{"x": 1}, {"a": 1, "\\u0061": 2}]',
           '{"a\\"": 1, "a\\"": 2}', '{"a": "\\":", "b": 1, "b": 2}']  # fmt: skip


@pytest.mark.parametrize("text", DOUBLES)
def test_double_keys_are_found_however_they_are_written(text: str) -> None:
    with pytest.raises(strict_json.NotJson, match="appears twice"):
        strict_json.loads(text)


@pytest.mark.parametrize(
    "text", ['{"a": "\\":\\":", "b": {"a": []}}', '{"a" : 1}', "[]", '"x"', ' {"":{"":1}} ', "1.5"]
)
def test_what_has_no_double_keys_is_read(text: str) -> None:
    assert strict_json.loads(text) == json.loads(text)


# --- shapes

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "maximum": 1e2}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
A_CALL = {"role": "assistant", "content": "", "tool_calls": [CALL]}
PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}

MORE_SHAPES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                   {"role": "tool", "content": "dry", "tool_call_id": "c1"}, ANSWER], "tools": [WEATHER]},
     {"messages": [USER, A_CALL, {"role": "tool", "content": "dry", "tool_call_id": "c1"}, ANSWER],
      "tools": [{"type": "function",
                 "function": {"name": "weather", "parameters": {"type": "object", "maximum": 100}}}]}),
    ({"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                   {"role": "function", "name": "f", "content": "x"}], "functions": [{"name": "f"}]},
     {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [
         {"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
         {"role": "tool", "name": "f", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ({"conversations": [{"from": "human", "value": "q"},
                        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                        {"from": "observation", "value": "r"}, {"from": "gpt", "value": "a"}],
      "tools": '[{"name": "f"}]', "system": ""},
     {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [
         {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
         {"role": "tool", "content": "r"}, ANSWER], "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ({"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}}, {"messages": [USER, ANSWER]}),
    ({"messages": [USER, ANSWER], "tools": None}, {"messages": [USER, ANSWER]}),
    ({"input": {"messages": [USER], "tools": [WEATHER], "parallel_tool_calls": True},
      "preferred_output": [ANSWER], "non_preferred_output": [OTHER]}, {**PAIR}),
    ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
      "rejected": {"from": "gpt", "value": "b"}}, PAIR),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, PAIR),
    ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, PAIR),
    ({"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, PAIR),
    ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, PAIR),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, PAIR),
    ({"prompt": "q", "system": "s", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
     {**PAIR, "prompt": [{"role": "system", "content": "s"}, USER]}),
    ({"messages": [USER, ANSWER], "label": False}, {"prompt": [USER], "completion": [ANSWER], "label": False}),
    ({"messages": [USER, ANSWER], "kto_tag": True}, {"prompt": [USER], "completion": [ANSWER], "label": True}),
    ({"prompt": [USER], "completion": [ANSWER], "label": "False"},
     {"prompt": [USER], "completion": [ANSWER], "label": False}),
    ({"prompt": "q", "source": "x"}, {"kind": "prompt", "prompt": [USER]}),
    ({"prompt": [USER], "system": "s"}, {"kind": "prompt", "prompt": [{"role": "system", "content": "s"}, USER]}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), MORE_SHAPES)
def test_the_shapes_people_have(tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    entry = imported(write(tmp_path, "rows.jsonl", jsonl([fields])))[0]
    row = json.loads(entry.data)
    assert expected.items() <= row.items()


@pytest.mark.parametrize("fields", [fields for fields, _ in MORE_SHAPES])
def test_what_shapes_give_is_a_row_and_its_canonical_bytes(tmp_path: Path, fields: dict[str, Any]) -> None:
    """The quick way from a record to a row's bytes skips the contract's validation: here it is made up for."""
    entry = imported(write(tmp_path, "rows.jsonl", jsonl([fields])))[0]
    assert row_bytes(ROW.validate_json(entry.data)).decode() == entry.data
    assert row_hash(entry.row) == entry.hash
    assert texts(entry.row) == entry.texts and any(part.learned for part in entry.texts)


@pytest.mark.parametrize("columns", [["prompt", "answer"], ["prompt", "text"], ["prompt", "label"]])
def test_a_prompt_beside_what_may_be_its_answer_is_asked_about(tmp_path: Path, columns: list[str]) -> None:
    with pytest.raises(UnclearColumns):
        imported(write(tmp_path, "rows.jsonl", jsonl([dict.fromkeys(columns, "x")])))
    mapped = imported(write(tmp_path, "rows.jsonl", jsonl([dict.fromkeys(columns, "x")])), columns={"prompt": "prompt"})
    assert mapped[0].kind is RowKind.PROMPT
