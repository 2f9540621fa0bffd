"""Arrow files (Feather) and streams, as the library `datasets` saves them. Mapped into memory, not read into it."""

import mmap
import struct
from collections.abc import Iterator
from typing import Any

from datasets_app.formats._arrow import Reader
from datasets_app.formats._arrow_sizes import FILE_MAGIC, Sizes
from datasets_app.reading import BadLine, Guess, Head, Record, Source
from project.contracts.runs import UserError

name = "arrow"
label = "Arrow"
suffixes = (".arrow", ".feather", ".ipc")
binary = True

_STREAM = b"\xff\xff\xff\xff"


def detect(head: Head) -> Guess | None:
    if head.data.startswith(FILE_MAGIC):
        return Guess(1.0, "it begins as an Arrow file does")
    if head.data.startswith(_STREAM) and head.suffix in suffixes:
        return Guess(0.9, "it begins as an Arrow stream does")
    return None


def read(source: Source) -> Iterator[Record | BadLine]:
    import pyarrow as pa

    if source.packing:
        raise UserError(f"{source.name} is a packed Arrow file.", hint="Unpack it.", field="file")
    try:
        with (
            source.path.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
            pa.memory_map(str(source.path)) as file,
        ):
            sizes = Sizes(source, data)
            schema, batches = _batches(file, sizes)
            reader = Reader(source, schema)
            for batch in batches:
                source.advance(min(file.tell(), source.size), max(reader.bytes, sizes.total))
                batch.validate(full=True)  # or a wrong offset reads other memory of this process
                yield from reader.records(batch)
                source.advance(min(file.tell(), source.size), max(reader.bytes, sizes.total))
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError, struct.error) as error:
        raise UserError(
            f"{source.name} is a damaged Arrow file: {(str(error).splitlines() or ['it takes too much memory'])[0]}",
            hint="Copy or write it again.",
            field="file",
        ) from error


def _batches(file: Any, sizes: Sizes) -> tuple[Any, Iterator[Any]]:
    """The schema, and the batches, each judged by its size before it is unpacked."""
    import pyarrow as pa

    is_file = file.read(len(FILE_MAGIC)) == FILE_MAGIC
    file.seek(0)
    if not is_file:
        stream = pa.ipc.open_stream(file)
        return stream.schema, (batch for _, batch in zip(sizes.batches(), stream, strict=False))
    whole = pa.ipc.open_file(file)
    return whole.schema, (whole.get_batch(number) for number, _ in enumerate(sizes.blocks()))
