"""Reading stored rows page by page: only the row groups that are asked for are read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StoredRow:
    """One row of a version. `number` counts from 1; `row` and `meta` are JSON values."""

    number: int
    row: dict[str, Any]
    meta: dict[str, Any]
    hash: str


def count(folder: Path) -> int:
    """How many rows `folder/rows.parquet` holds."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(folder / "rows.parquet").num_rows)


def read(folder: Path, offset: int, limit: int) -> list[StoredRow]:
    """Rows `offset` to `offset + limit` of `folder/rows.parquet`; fewer, or none, at the end."""
    import pyarrow.parquet as pq

    found: list[StoredRow] = []
    with pq.ParquetFile(folder / "rows.parquet") as file:
        start = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            first, last = max(offset - start, 0), min(offset + limit - start, size)
            if first < last:
                for index, stored in enumerate(file.read_row_group(group).slice(first, last - first).to_pylist()):
                    row, meta = json.loads(stored["row"]), json.loads(stored["meta"])
                    found.append(StoredRow(start + first + index + 1, row, meta, stored["hash"]))
            start += size
            if start >= offset + limit:
                break
    return found
