"""Points of series into their table: what is new by COPY where the database has it, what is said again by an upsert."""

from collections.abc import Iterator
from itertools import chain
from struct import Struct

from django.db import connection

from project.jobs.ownership import Ownership
from project.jobs.upserts import upsert

Numbers = dict[int, tuple[float, float]]  # value, and time in Unix seconds, by step

_COPY = 'COPY jobs_metric ("job_id", "key", "step", "attempt", "value", "at") FROM STDIN (FORMAT BINARY)'
_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # PostgreSQL's documentation, COPY, "Binary Format"
_END = b"\xff\xff"
_DAY_ZERO = 946_684_800  # PostgreSQL counts microseconds from the year 2000, here in Unix seconds


def add(own: Ownership, series: dict[str, Numbers]) -> None:
    """Write points that no attempt of the job has said yet: every step is beyond the last one of its series.

    The caller holds the job's row, so nobody else writes to its series meanwhile.
    """
    if connection.vendor != "postgresql":
        replace(own, series)
    elif series:
        with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write(b"".join(chain([_BEGIN], _as_binary(own, series), [_END])))


def replace(own: Ownership, series: dict[str, Numbers]) -> None:
    """Write points; what this attempt has already said about a step is replaced."""
    rows = [(key, step, value, at) for key, said in series.items() for step, (value, at) in said.items()]
    if rows:
        upsert(
            "jobs_metric",
            {"job_id": ("uuid", own.job_id), "attempt": ("int", own.attempt)},
            {"key": "text", "step": "bigint", "value": "float8", "at": "epoch"},
            rows,
            conflict=("job_id", "key", "step", "attempt"),
        )


def _as_binary(own: Ownership, series: dict[str, Numbers]) -> Iterator[bytes]:
    """Each point as COPY reads it: the number of columns, then of each its length and its bytes."""
    job = own.job_id.bytes
    for key, said in series.items():
        name = key.encode()
        pack = Struct(f"!hi16si{len(name)}siqiiidiq").pack
        for step, (value, at) in said.items():
            microseconds = round((at - _DAY_ZERO) * 1_000_000)
            yield pack(6, 16, job, len(name), name, 8, step, 4, own.attempt, 8, value, 8, microseconds)
