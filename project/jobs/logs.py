"""The log of an attempt: its file where this host has it, else the part that its supervisor kept in the database."""

from dataclasses import dataclass

from project.jobs.models import Job, JobAttempt
from project.jobs.reading import clean

TAIL = 64 * 1024  # bytes


@dataclass(frozen=True)
class LogPart:
    """`text` lies at `offset` of `size` bytes; `next_offset` is where what comes next begins."""

    attempt: int
    text: str
    offset: int
    next_offset: int
    size: int
    complete: bool  # false: of a log on another host only the last part is here


def part(job: Job, *, attempt: int | None = None, offset: int | None = None, limit: int = TAIL) -> LogPart | None:
    """The log from `offset`, or its last `limit` bytes; None when there is no such attempt."""
    tries = job.attempts.order_by("-number")
    row = tries.filter(number=attempt).first() if attempt is not None else tries.first()
    if row is None:
        return None
    path = row.run_folder() / "log.txt"
    try:
        size = path.stat().st_size
        begin = max(0, size - limit) if offset is None else min(offset, size)
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(limit)
    except OSError:
        return _kept(row)
    if offset is None and begin:
        dropped = data.find(b"\n") + 1  # begin at a line
        begin, data = begin + dropped, data[dropped:]
    return LogPart(row.number, clean(data), begin, begin + len(data), size, complete=True)


def _kept(row: JobAttempt) -> LogPart:
    begin = max(0, row.log_bytes - len(row.log_tail.encode()))
    return LogPart(row.number, row.log_tail, begin, row.log_bytes, row.log_bytes, complete=begin == 0)
