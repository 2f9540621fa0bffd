"""Parquet. Its footer says beforehand what it unpacks to; texts stay in their dictionaries until they are counted."""

from collections.abc import Iterator
from typing import Any

from datasets_app.formats._arrow import SLICE_ROWS, Reader
from datasets_app.reading import BadLine, Guess, Head, Record, Source
from project.contracts.runs import UserError

name = "parquet"
label = "Parquet"
suffixes = (".parquet", ".pq")
binary = True

_MAGIC = b"PAR1"
_BUFFER = 1024 * 1024
_SUSPICIOUS = 64 * 1024**2  # bytes from which a column that is packed 500 times smaller is no data any more
_RATIO = 500
_FOOTER = 64 * 1024**2  # bytes of texts in the footer, and parts of it


def detect(head: Head) -> Guess | None:
    return Guess(1.0, "it begins as Parquet does") if head.data.startswith(_MAGIC) else None


def read(source: Source) -> Iterator[Record | BadLine]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.packing:
        raise UserError(
            f"{source.name} is Parquet packed with {source.packing}.",
            hint="Upload the Parquet file itself: it is compressed inside.",
            field="file",
        )
    try:
        limits = {"thrift_string_size_limit": _FOOTER, "thrift_container_size_limit": 1_000_000}
        metadata = pq.read_metadata(source.path)
        texts = [
            metadata.schema.column(i).path
            for i in range(metadata.num_columns)
            if metadata.schema.column(i).physical_type == "BYTE_ARRAY"
        ]
        _check_sizes(source, metadata)
        with pq.ParquetFile(
            source.path, read_dictionary=texts, pre_buffer=False, buffer_size=_BUFFER, **limits
        ) as file:
            reader = Reader(source, file.schema_arrow)
            for batch in file.iter_batches(SLICE_ROWS):
                yield from reader.records(batch)
                source.advance(source.size * reader.rows // max(metadata.num_rows, 1), reader.bytes)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{source.name} is a damaged Parquet file: {str(error).splitlines()[0][:300]}",
            hint="Copy or write it again.",
            field="file",
        ) from error


def _check_sizes(source: Source, metadata: Any) -> None:
    """Refuse what its own footer says is too much, before a page of it is unpacked."""
    limits = source.limits
    if metadata.num_rows > limits.rows:
        raise UserError(
            f"{source.name} has {metadata.num_rows:,} rows; at most {limits.rows:,} are taken.",
            hint="Split it, or ask the operator to raise MAX_DATASET_ROWS.",
            field="file",
        )
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        total += group.total_byte_size
        for index in range(group.num_columns):
            column = group.column(index)
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            if unpacked > _SUSPICIOUS and unpacked > _RATIO * max(packed, 1):
                raise UserError(
                    f"{source.name}: row group {number + 1} unpacks '{column.path_in_schema}' from {packed:,} to "
                    f"{unpacked:,} bytes, which no data does.",
                    hint="Write the file again, without the padding.",
                    field="file",
                )
    if total > limits.unpacked_bytes:
        raise UserError(
            f"{source.name} unpacks to {total:,} bytes; at most {limits.unpacked_bytes:,} are taken.",
            hint="Split it, or ask the operator to raise MAX_UNPACKED_BYTES.",
            field="file",
        )
