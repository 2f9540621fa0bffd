"""How the rows of a version are stored: one Parquet file, written once, read by page or as a stream. Pure.

`rows.parquet` has a row's canonical JSON (`row`), its other columns as JSON (`meta`) and its SHA-256 (`hash`), and
beside them what rows are filtered and sorted by without parsing JSON:

| column | is |
|---|---|
| `number` | counts from 1 |
| `characters`, `learned_characters` | of all its texts, and of those the model learns |
| `turns` | its texts |
| `answer` | the first 200 characters of the last text the model learns: the label, in a data set of labels |
| `given_key` | 64 bits of what is asked, without regard to capitals and blanks: the same question has the same |
| `synthetic` | a model or a machine wrote it: `meta` has `synthetic` |
| `origin` | its hash before a preparation step first changed it, which copies of it name; empty where none did |

Files of before these columns existed stay readable.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from datasets_app.importing import Entry, TextPart
from project.contracts.rows import DatasetDigest

FILE = "rows.parquet"
GROUP_ROWS = 2048
ANSWER = 200  # characters
SYNTHETIC = "synthetic"  # the key in `meta` of a row that a model or a machine wrote
_GROUP_BYTES = 32 * 1024**2  # a row group is also closed by size: rows of megabytes exist
_NUMBERS = {"number": "q", "characters": "q", "learned_characters": "q", "turns": "i", "given_key": "q"}
_ENTRY = ("row", "meta", "hash")
_NO_META = hashlib.sha256(b"{}").digest()
_STATISTICS = ["number", "characters", "learned_characters", "turns"]


@dataclass(frozen=True)
class StoredRow:
    """One row of a version. `number` counts from 1; `row` and `meta` are JSON values."""

    number: int
    row: dict[str, Any]
    meta: dict[str, Any]
    hash: str


# --- writing


class RowsFile:
    """Writes `rows.parquet` (zstd, in row groups), and counts what a version says about its rows.

    `with RowsFile(folder / FILE) as file: file.add(entry)`; afterwards `file.facts()`. The entries are numbered in the
    order in which they are added, whatever their own number says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest, self._meta_digest = DatasetDigest(), hashlib.sha256(b"tuneloop-meta-1\n")
        self.rows = self.synthetic_rows = 0
        self._begin_group()

    def _begin_group(self) -> None:
        self._texts: dict[str, list[bytes]] = {"row": [], "meta": [], "hash": [], "answer": [], "origin": []}
        self._numbers = {name: array(code) for name, code in _NUMBERS.items()}
        self._synthetic: list[bool] = []
        self._bytes = 0

    def __enter__(self) -> "RowsFile":
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"q": pa.int64(), "i": pa.int32()}
        self._schema = pa.schema(
            [
                *((name, pa.string()) for name in ("row", "meta", "hash")),
                *((name, kinds[code]) for name, code in _NUMBERS.items()),
                ("answer", pa.string()),
                ("synthetic", pa.bool_()),
                ("origin", pa.string()),
            ]
        )
        self._writer = pq.ParquetWriter(
            self._path, self._schema, compression="zstd", use_dictionary=["answer"], write_statistics=_STATISTICS
        )
        return self

    def add(self, entry: Entry) -> None:
        self.rows += 1
        row, meta, parts = entry.data.encode(), entry.meta.encode(), entry.texts
        total, learned, answer = measure(parts)
        synthetic = is_synthetic(entry.meta)
        self._digest.add(entry.hash)
        self._meta_digest.update(_NO_META if meta == b"{}" else hashlib.sha256(meta).digest())
        self.synthetic_rows += synthetic
        self._synthetic.append(synthetic)
        texts, numbers = self._texts, self._numbers
        texts["row"].append(row)
        texts["meta"].append(meta)
        texts["hash"].append(entry.hash.encode())
        texts["answer"].append(answer.encode())
        texts["origin"].append(entry.origin.encode())
        numbers["number"].append(self.rows)
        numbers["characters"].append(total)
        numbers["learned_characters"].append(learned)
        numbers["turns"].append(len(parts))
        numbers["given_key"].append(entry.given_key)
        self._bytes += len(row) + len(meta)
        if len(self._synthetic) >= GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._synthetic:
            return
        columns = []
        for field in self._schema:
            if field.name in self._texts:
                columns.append(strings(self._texts[field.name]))
            elif field.name in self._numbers:
                columns.append(_numbers(field.type, self._numbers[field.name]))
            else:
                columns.append(_flags(self._synthetic))
        self._writer.write_batch(pa.record_batch(columns, self._schema))
        self._begin_group()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def facts(self) -> dict[str, Any]:
        """What a version keeps of its rows: `rows`, `digest`, `meta_digest` (SHA-256 over those of the meta data)."""
        return {
            "rows": self.rows,
            "digest": self._digest.hexdigest(),
            "meta_digest": self._meta_digest.hexdigest(),
            "synthetic_rows": self.synthetic_rows,
        }


def measure(parts: Sequence[TextPart]) -> tuple[int, int, str]:
    """(characters of all texts, characters that are learned, the beginning of the last text that is learned)."""
    total = learned = 0
    answer = ""
    for part in parts:
        total += len(part.text)
        if part.learned:
            learned += len(part.text)
            answer = part.text
    return total, learned, answer[:ANSWER]


def is_synthetic(meta: str) -> bool:
    """Does the meta data (JSON) say that a model or a machine wrote the row?"""
    return f'"{SYNTHETIC}"' in meta and bool(json.loads(meta).get(SYNTHETIC))


def strings(values: Sequence[bytes]) -> Any:
    """An Arrow array of UTF-8 texts. Made from its buffers, because `pa.array` imports pandas (0.4 s, 40 MB)."""
    import pyarrow as pa

    offsets = array("i", [0, *accumulate(map(len, values))])  # 32 bits: a group is far below 2 GiB
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))


def _numbers(kind: Any, values: "array[int]") -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _flags(values: list[bool]) -> Any:
    import pyarrow as pa

    bits = bytearray((len(values) + 7) // 8)
    for index, value in enumerate(values):
        bits[index >> 3] |= value << (index & 7)
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bytes(bits))])


# --- reading


def entries(folder: Path, start: int = 0) -> Iterator[Entry]:
    """The rows of a stored version in their order, from the one with number `start + 1` on, as they were added.

    They have no line, because they do not come from a file. Memory: one row group.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / FILE) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > start:
                table = file.read_row_group(group, columns=[*_ENTRY, *({"origin"} & {*file.schema_arrow.names})])
                yield from _entries(table, first, max(start - first, 0))
            first += size


def _entries(table: Any, first: int, skip: int) -> Iterator[Entry]:
    columns = [table.column(name).to_pylist()[skip:] for name in _ENTRY]
    origins = table.column("origin").to_pylist()[skip:] if "origin" in table.column_names else [""] * len(columns[0])
    for number, (data, meta, digest, origin) in enumerate(zip(*columns, origins, strict=True), first + skip + 1):
        yield Entry(number, 0, None, None, data, meta, digest, origin=origin)


def count(folder: Path) -> int:
    """How many rows a stored version has."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(folder / FILE).num_rows)


def read(folder: Path, offset: int, limit: int) -> list[StoredRow]:
    """Rows `offset` to `offset + limit` of a stored version; fewer, or none, at the end."""
    end = min(offset + limit, count(folder))
    return numbered(folder, range(offset + 1, end + 1))


def numbered(folder: Path, numbers: Iterable[int]) -> list[StoredRow]:
    """The rows with these numbers (which exist), in this order. Only the row groups they are in are read."""
    import pyarrow.parquet as pq

    wanted = list(numbers)
    found: dict[int, StoredRow] = {}
    with pq.ParquetFile(folder / FILE) as file:
        sizes = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        ends = list(accumulate(sizes, initial=0))
        for group, (start, end) in enumerate(pairwise(ends)):
            here = sorted({number - 1 - start for number in wanted if start < number <= end})
            if here:
                table = file.read_row_group(group, columns=["row", "meta", "hash"])
                for index, stored in zip(here, _picked(table, here), strict=True):
                    row, meta = json.loads(stored["row"]), json.loads(stored["meta"])
                    found[start + index + 1] = StoredRow(start + index + 1, row, meta, stored["hash"])
    return [found[number] for number in wanted]


def _picked(table: Any, indexes: list[int]) -> Iterator[dict[str, Any]]:
    for index in indexes:
        yield table.slice(index, 1).to_pylist()[0]
