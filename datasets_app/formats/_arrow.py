"""Batches of Arrow, from Parquet or Arrow files, as records. What a batch would take as texts is known beforehand."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from datasets_app.reading import BadLine, Record, Source
from project.contracts.runs import UserError

SLICE_ROWS = 1024
_AT_ONCE = 32 * 1024**2  # bytes of text that become Python objects together


class Reader:
    """Turns batches into records, and counts what comes out against the limit of the import."""

    def __init__(self, source: Source, schema: Any) -> None:
        self._source = source
        self._convert = {field.name: _converter(field.type) for field in schema}
        double = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if double is not None:
            raise UserError(f"{source.name} has two columns named '{double[:60]}'.", hint="Rename one.", field="file")
        self.rows = 0
        self.bytes = 0

    def records(self, batch: Any) -> Iterator[Record | BadLine]:
        for start in range(0, batch.num_rows, SLICE_ROWS):
            part = batch.slice(start, SLICE_ROWS)
            size = sum(_bytes_of(column) for column in part.columns)
            if size > _AT_ONCE:
                for number in range(part.num_rows):
                    row = part.slice(number, 1)
                    yield from self._rows(row, sum(_bytes_of(column) for column in row.columns))
            else:
                yield from self._rows(part, size)

    def _rows(self, part: Any, size: int) -> Iterator[Record | BadLine]:
        limits = self._source.limits
        if part.num_rows == 1 and size > limits.line_bytes:
            self.rows += 1
            yield BadLine(self.rows, f"it is longer than {limits.line_bytes:,} bytes.")
            return
        self.bytes += size
        if self.bytes > limits.unpacked_bytes:
            raise UserError(
                f"{self._source.name} unpacks to more than {limits.unpacked_bytes:,} bytes.",
                hint="Split it, or ask the operator to raise MAX_UNPACKED_BYTES.",
                field="file",
            )
        columns = {}
        for name, column in zip(part.schema.names, part.columns, strict=True):
            values = column.to_pylist()
            convert = self._convert[name]
            columns[name] = values if convert is None else [convert(value) for value in values]
        names = list(columns)
        for values in zip(*columns.values(), strict=True):
            self.rows += 1
            yield Record(self.rows, dict(zip(names, values, strict=True)))


def _bytes_of(column: Any) -> int:
    """Bytes of all texts and numbers of an array, spelled out: what is one value in a dictionary counts each time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        lengths = pa.array([], pa.int64()) if not len(column) else _lengths(column.dictionary).take(column.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(_bytes_of(inner) for inner in column.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return int(_bytes_of(column.flatten()))
    if pa.types.is_map(kind):
        inside = column.offsets[-1].as_py() - column.offsets[0].as_py() if len(column) else 0
        first = column.offsets[0].as_py() if len(column) else 0
        return _bytes_of(column.keys.slice(first, inside)) + _bytes_of(column.items.slice(first, inside))
    return int(pc.sum(_lengths(column)).as_py() or 0)


def _lengths(column: Any) -> Any:
    """Bytes of each value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if any(is_kind(kind) for is_kind in texts):
        return pc.cast(pc.binary_length(column), pa.int64())
    return pa.nulls(len(column), pa.int64()).fill_null(8)


def _converter(kind: Any) -> Callable[[Any], Any] | None:
    """What makes a value of this type one of JSON; None where it is one already."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _converter(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind) or types.is_integer(kind):
        return None
    if types.is_null(kind):
        return None
    if types.is_floating(kind):
        return _number
    if types.is_struct(kind):
        inner = {kind.field(i).name: _converter(kind.field(i).type) for i in range(kind.num_fields)}
        return lambda value: _object(value, inner)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inside = _converter(kind.value_type)
        return None if inside is None else lambda value: None if value is None else [inside(one) for one in value]
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _bytes
    if types.is_map(kind):
        item = _converter(kind.item_type) or _same
        return lambda value: None if value is None else {str(key): item(one) for key, one in value}
    return _text  # dates, times, decimals


def _same(value: Any) -> Any:
    return value


def _object(value: Mapping[str, Any] | None, inner: Mapping[str, Callable[[Any], Any] | None]) -> Any:
    """Arrow gives every object the keys of all; those it lacks come as null and are left out again."""
    if value is None:
        return None
    found = {}
    for name, one in value.items():
        if one is not None:
            convert = inner[name]
            found[name] = one if convert is None else convert(one)
    return found


def _number(value: float | None) -> Any:
    """pandas writes what is missing in a column of numbers as NaN."""
    return None if value is None or math.isnan(value) else value


def _bytes(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _text(value: Any) -> Any:
    if value is None:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
