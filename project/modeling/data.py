"""Reading the rows of a data set version inside an engine. Pure: a folder in, rows out."""

from collections.abc import Iterator
from pathlib import Path

from project.contracts.rows import ROW, Row
from project.contracts.runs import UserError

_BATCH = 2048


def iter_rows(path: Path) -> Iterator[Row]:
    """The rows of `path` in order: a version's folder (with `rows.parquet`), or the file itself. Raises UserError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "rows.parquet" if path.is_dir() else path
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_BATCH, columns=["row"]):
                for row in batch.column(0).to_pylist():
                    yield ROW.validate_json(row)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(
            f"The data set can't be read ({file.name}: {error}).", hint="Import it again.", field="data"
        ) from error


def read_rows(path: Path) -> list[Row]:
    """All rows of `path`, in memory."""
    return list(iter_rows(path))


def write_rows(rows: list[Row], folder: Path) -> Path:
    """Write `folder/rows.parquet` as a version's artifact has it, without meta data: for tests and runs by hand."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from project.contracts.rows import row_bytes, row_hash

    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "row": pa.array([row_bytes(row).decode() for row in rows], pa.string()),
            "meta": pa.array(["{}" for _ in rows], pa.string()),
            "hash": pa.array([row_hash(row) for row in rows], pa.string()),
        }
    )
    pq.write_table(table, folder / "rows.parquet", compression="zstd", row_group_size=_BATCH)
    return folder
