"""Arrow files (Feather) and streams, as the library `datasets` saves them. Mapped into memory, not read into it."""

from collections.abc import Iterator
from typing import Any

from datasets_app.formats._arrow import Reader
from datasets_app.reading import BadLine, Guess, Head, Record, Source
from project.contracts.runs import UserError

name = "arrow"
label = "Arrow"
suffixes = (".arrow", ".feather", ".ipc")
binary = True

_FILE, _STREAM = b"ARROW1", b"\xff\xff\xff\xff"


def detect(head: Head) -> Guess | None:
    if head.data.startswith(_FILE):
        return Guess(1.0, "it begins as an Arrow file does")
    if head.data.startswith(_STREAM) and head.suffix in suffixes:
        return Guess(0.9, "it begins as an Arrow stream does")
    return None


def read(source: Source) -> Iterator[Record | BadLine]:
    import pyarrow as pa

    if source.packing:
        raise UserError(f"{source.name} is a packed Arrow file.", hint="Unpack it.", field="file")
    try:
        with pa.memory_map(str(source.path)) as file:
            schema, batches = _batches(file)
            reader = Reader(source, schema)
            for batch in batches:
                yield from reader.records(batch)
                source.advance(file.tell() if file.tell() < source.size else source.size, reader.bytes)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise UserError(
            f"{source.name} is a damaged Arrow file: {(str(error).splitlines() or ['it takes too much memory'])[0]}",
            hint="Copy or write it again.",
            field="file",
        ) from error


def _batches(file: Any) -> tuple[Any, Iterator[Any]]:
    import pyarrow as pa

    is_file = file.read(len(_FILE)) == _FILE
    file.seek(0)
    if not is_file:
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream)
    whole = pa.ipc.open_file(file)
    return whole.schema, (whole.get_batch(number) for number in range(whole.num_record_batches))
