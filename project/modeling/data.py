"""Reading the rows of a data set version inside an engine. Pure: a folder in, rows out."""

from collections.abc import Iterator
from pathlib import Path

from project.contracts.rows import ROW, DatasetDigest, Row
from project.contracts.runs import UserError

_BATCH = 2048


def iter_rows(path: Path) -> Iterator[Row]:
    """The rows of `path` in order: a version's folder (with `rows.parquet`), or the file itself. Raises UserError."""
    return map(ROW.validate_json, iter_texts(path))


def iter_texts(path: Path) -> Iterator[str]:
    """`iter_rows` as the canonical JSON that is stored, whose SHA-256 is the row's hash."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "rows.parquet" if path.is_dir() else path
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_BATCH, columns=["row"]):
                yield from batch.column(0).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(
            f"The data set can't be read ({file.name}: {error}).", hint="Import it again.", field="data"
        ) from error


def content_digest(path: Path) -> str | None:
    """The digest of the rows of `path`, from the hashes that are stored beside them; None where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = DatasetDigest()
    try:
        with pq.ParquetFile(path / "rows.parquet" if path.is_dir() else path) as parquet:
            if "hash" not in parquet.schema_arrow.names:
                return None
            for batch in parquet.iter_batches(65_536, columns=["hash"]):
                for value in batch.column(0).to_pylist():
                    digest.add(value)
    except (OSError, pa.ArrowInvalid, ValueError, TypeError):
        return None
    return digest.hexdigest()


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
