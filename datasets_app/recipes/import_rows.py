"""The recipe `import`: an uploaded file becomes `rows.parquet` and `report.json`, in the memory of a few rows."""

import json
from array import array
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datasets_app.importing import Entry, Importing, Options
from datasets_app.reading import Limits, excerpt
from datasets_app.shapes import PARTS
from datasets_app.validation import Validation
from project.contracts.rows import DatasetDigest, RowKind
from project.contracts.runs import RunContext

name = "import"
label = "Import rows"
eats: tuple[RowKind, ...] = ()
needs = "cpu"

SOURCE = "source"  # the file's name within an upload's folder
GROUP_ROWS = 2048
_GROUP_BYTES = 32 * 1024**2  # a row group is also closed by size: rows of megabytes exist
_LOOK_EVERY = 256  # rows between two looks at the stop flag


class Params(BaseModel):
    """How to read the file. Limits are in bytes of the file as uploaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(default="auto", description="auto, or the name of a format")
    columns: dict[str, str] = Field(default={}, description=f"part -> column; parts: {', '.join(PARTS)}")
    skip_bad_lines: bool = Field(default=False, description="import the rest and report the bad lines")
    source_name: str = Field(default="", max_length=255, description="the file's name where it came from")
    max_bytes: int = Field(default=Limits.bytes, ge=1)
    max_rows: int = Field(default=Limits.rows, ge=1)
    max_line_bytes: int = Field(default=Limits.line_bytes, ge=1024)

    def options(self) -> Options:
        limits = Limits(self.max_bytes, self.max_rows, self.max_line_bytes)
        return Options(self.format, self.columns, self.skip_bad_lines, limits)


def run(params: Params, ctx: RunContext) -> None:
    source = ctx.input("source")
    source = source / SOURCE if source.is_dir() else source  # uploads are kept as folders
    importing = Importing(source, params.options(), name=params.source_name)
    ctx.log(f"{importing.detected.format.label}: {importing.detected.evidence}; {importing.mapped.shape.label}")
    validation, digest, rows = Validation(), DatasetDigest(), 0
    with RowsFile(ctx.artifact / "rows.parquet") as file:
        for entry in importing.rows():
            file.add(entry)
            digest.add(entry.hash)
            validation.see(entry)
            rows += 1
            if rows % _LOOK_EVERY == 0:
                ctx.check_stop()
                ctx.progress(importing.source.position, importing.source.size, unit="byte", phase="Reading")
    ctx.progress(importing.source.size, importing.source.size, unit="byte", phase="Reading")
    report = validation.report(
        importing.bad.first,
        importing.bad.count,
        format={"name": importing.detected.format.name, "evidence": importing.detected.evidence},
        shape={"name": importing.mapped.shape.name, "label": importing.mapped.shape.label},
        columns={
            "found": [excerpt(column, 80) for column in importing.columns[:200]],
            "mapped": {part: excerpt(column, 80) for part, column in importing.mapped.columns.items()},
        },
    )
    (ctx.artifact / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1))
    ctx.done(
        artifact=True,
        rows=rows,
        row_kind=importing.kind.value,
        digest=digest.hexdigest(),
        format=importing.detected.format.name,
        bad_lines=importing.bad.count,
    )


class RowsFile:
    """`rows.parquet`: `row` (canonical JSON), `meta` (JSON), `hash` (SHA-256, hexadecimal), zstd, in row groups."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        self._bytes = 0

    def __enter__(self) -> "RowsFile":
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([("row", pa.string()), ("meta", pa.string()), ("hash", pa.string())])
        self._writer = pq.ParquetWriter(
            self._path, self._schema, compression="zstd", use_dictionary=False, write_statistics=False
        )
        return self

    def add(self, entry: Entry) -> None:
        values = (entry.data.encode(), entry.meta.encode(), entry.hash.encode())
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
            self._bytes += len(value)
        if len(self._columns[0]) >= GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._columns[0]:
            self._writer.write_batch(pa.record_batch([_strings(column) for column in self._columns], self._schema))
            self._columns, self._bytes = ([], [], []), 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def _strings(values: list[bytes]) -> Any:
    """An Arrow array of UTF-8 texts. Made from its buffers, because `pa.array` imports pandas (0.4 s, 40 MB)."""
    import pyarrow as pa

    offsets = array("i", [0, *accumulate(map(len, values))])  # 32 bits: a group is far below 2 GiB
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))
