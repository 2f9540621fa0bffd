"""What the compressed buffers of an Arrow file unpack to, by its own headers: judged before a byte is unpacked.

Arrow's library trusts these numbers and takes that much memory. The headers are FlatBuffers, described in
https://arrow.apache.org/docs/format/Columnar.html (Message.fbs, File.fbs). Damaged ones raise struct.error.
"""

import struct
from collections.abc import Iterator
from mmap import mmap
from typing import Any

from datasets_app.reading import Source
from project.contracts.runs import UserError

FILE_MAGIC = b"ARROW1"
_AT_ONCE = 1024**3  # bytes that one batch and the dictionaries take together in memory
_SUSPICIOUS = 64 * 1024**2  # bytes from which what is packed 500 times smaller is no data any more
_RATIO = 500
_DICTIONARY, _BATCH = 2, 3  # MessageHeader
_VERSION_5 = 4  # MetadataVersion; those before may say in another place that they are compressed
_CONTINUATION = -1
_AS_IT_IS = -1  # in the place of a size: this buffer is not compressed


class Sizes:
    """Judges batch after batch in step with whoever reads them. Raises UserError for what unpacks to too much."""

    def __init__(self, source: Source, data: mmap) -> None:
        self._source, self._data = source, data
        self.total = 0  # bytes, of all that was judged
        self._dictionaries = 0
        self._at = 0  # where the next message of a stream begins

    def blocks(self) -> Iterator[None]:
        """Of a file: judge all dictionaries and one batch at each step, in the order of the footer."""
        end = len(self._data) - len(FILE_MAGIC) - 4
        footer = _Table.root(self._data, end - _number(self._data, end, "<i"))
        for at, header, _ in footer.structs(2, "<qi4xq"):
            self._block(at, header)
        for at, header, _ in footer.structs(3, "<qi4xq"):
            self._block(at, header)
            yield

    def batches(self) -> Iterator[None]:
        """Of a stream: judge one batch at each step, and the dictionaries before it."""
        while (kind := self._next()) is not None:
            if kind == _BATCH:
                yield
        yield  # who reads says whether the end is one or the file was cut there

    def _block(self, at: int, header: int) -> None:
        prefix = 8 if _number(self._data, at, "<i") == _CONTINUATION else 4
        self._judge(_Table.root(self._data, at + prefix), at + header)

    def _next(self) -> int | None:
        """Judge the next message of a stream. Returns what it is; None at the end."""
        at = self._at
        if at + 8 > len(self._data):
            return None
        size, start = _number(self._data, at, "<i"), at + 4
        if size == _CONTINUATION:
            size, start = _number(self._data, start, "<i"), at + 8
        if size <= 0:
            return None
        message = _Table.root(self._data, start)
        kind = self._judge(message, start + size)
        self._at = start + size + max(message.number(3, "<q"), 0)
        return kind

    def _judge(self, message: "_Table", body: int) -> int:
        kind = message.number(1, "<B")
        batch = message.table(2) if kind in (_DICTIONARY, _BATCH) else None
        if kind == _DICTIONARY and batch is not None:
            batch = batch.table(1)
        old = message.number(0, "<h") < _VERSION_5 and message.has(4)
        if batch is not None and (batch.has(3) or old):
            self._add(kind, self._unpacked(batch, body), message.number(3, "<q"))
        return kind

    def _unpacked(self, batch: "_Table", body: int) -> int:
        sizes = (_number(self._data, body + at, "<q") for at, length in batch.structs(2, "<qq") if length > 0)
        return sum(size for size in sizes if size != _AS_IT_IS)

    def _add(self, kind: int, unpacked: int, packed: int) -> None:
        name, limits = self._source.name, self._source.limits
        self.total += unpacked
        if kind == _DICTIONARY:
            self._dictionaries += unpacked
        if self.total > limits.unpacked_bytes:
            raise UserError(
                f"{name} unpacks to more than {limits.unpacked_bytes:,} bytes.",
                hint="Split it, or ask the operator to raise MAX_UNPACKED_BYTES.",
                field="file",
            )
        if unpacked > _SUSPICIOUS and unpacked > _RATIO * max(packed, 1):
            raise UserError(
                f"{name}: one batch unpacks from {packed:,} to {unpacked:,} bytes, which no data does.",
                hint="Write the file again, without the padding.",
                field="file",
            )
        if self._dictionaries + (unpacked if kind == _BATCH else 0) > _AT_ONCE:
            raise UserError(
                f"{name}: one batch unpacks to {unpacked:,} bytes; at most {_AT_ONCE:,} are taken at once.",
                hint="Write the file again in smaller batches.",
                field="file",
            )


class _Table:
    """A table of a FlatBuffer that begins at `at`. Its fields are given by number, and may be left out."""

    def __init__(self, data: mmap, at: int) -> None:
        self._data, self._at = data, at

    @classmethod
    def root(cls, data: mmap, at: int) -> "_Table":
        return cls(data, at + _number(data, at, "<I"))

    def _field(self, number: int) -> int:
        """Where the field is; 0 where it is left out."""
        fields = self._at - _number(self._data, self._at, "<i")
        slot = 4 + 2 * number
        if slot >= _number(self._data, fields, "<H"):
            return 0
        offset = _number(self._data, fields + slot, "<H")
        return self._at + offset if offset else 0

    def has(self, number: int) -> bool:
        return self._field(number) != 0

    def number(self, number: int, form: str) -> int:
        at = self._field(number)
        return _number(self._data, at, form) if at else 0

    def table(self, number: int) -> "_Table | None":
        at = self._field(number)
        return _Table.root(self._data, at) if at else None

    def structs(self, number: int, form: str) -> Iterator[tuple[Any, ...]]:
        """The structs of a list, one after the other."""
        at = self._field(number)
        if not at:
            return
        at += _number(self._data, at, "<I")
        size = struct.calcsize(form)
        for index in range(_number(self._data, at, "<I")):
            yield struct.unpack_from(form, self._data, at + 4 + index * size)


def _number(data: mmap, at: int, form: str) -> int:
    """The number that lies there. Raises struct.error where nothing does."""
    if at < 0:
        raise struct.error("a place before the beginning")
    return int(struct.unpack_from(form, data, at)[0])
