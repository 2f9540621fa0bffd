"""Following what an engine writes: half lines, nonsense, and reading the same twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from project.contracts.events import Metrics
from project.jobs import slots
from project.jobs.claim import Claim, claim
from project.jobs.ingest import Ingest, thinned
from project.jobs.models import Job, Metric, Queue
from project.jobs.ownership import Ownership, OwnershipLost
from project.jobs.reading import EventReader, Measured, log_tail
from project.jobs.tests.test_launch import launch
from project.testing import Cast


def write(path: Path, *events: Any, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(event if isinstance(event, str) else json.dumps(event) for event in events) + end)


def metrics(step: int, **values: float) -> dict[str, Any]:
    return {"type": "metrics", "at": 1000.0 + step, "step": step, "values": values}


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read() == []
    write(path, metrics(1, loss=1.0), '{"type": "metrics", "at": 2', end="")
    assert [line.number for line in reader.read()] == [1]
    assert reader.read() == []
    write(path, ', "step": 2, "values": {"loss": 0.5}}')
    (line,) = reader.read()
    assert (line.number, line.event.step) == (2, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_numbers_are_read_alike_however_they_are_written(tmp_path: Path, separators: tuple[str, str]) -> None:
    path = tmp_path / "events.jsonl"
    good = [metrics(1, loss=1.0), metrics(2, loss=3, lr=0.1), metrics(3)]
    bad = [
        {**metrics(4, loss=1.0), "step": -1},
        {**metrics(4, loss=1.0), "step": 2**63},
        {**metrics(4, loss=1.0), "step": 4.5},
        {**metrics(4, loss=1.0), "at": 1e12},
        {**metrics(4, loss=1.0), "at": float("nan")},
        {**metrics(4), "values": {"loss": "high"}},
        {**metrics(4), "values": {"loss": None}},
        {**metrics(4), "values": [1.0]},
        {**metrics(4, loss=1.0), "unit": "nats"},
        {"type": "metrics", "at": 1004.0, "values": {}},
    ]
    write(path, *(json.dumps(event, separators=separators) for event in good + bad))
    lines = EventReader(path).read()
    numbers = [line.event for line in lines if isinstance(line.event, Measured | Metrics)]
    assert [(said.step, said.values) for said in numbers] == [(1, {"loss": 1.0}), (2, {"loss": 3, "lr": 0.1}), (3, {})]
    assert [line.event.type for line in lines[3:]] == ["log"] * len(bad)


def test_nonsense_is_said_and_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, "hello", {"type": "unheard of"}, "\xff\x00", "", metrics(1, loss=1.0))
    lines = EventReader(path).read()
    assert [line.event.type for line in lines] == ["log", "log", "log", "metrics"]
    assert "unreadable event in line 1: hello" in lines[0].event.message  # type: ignore[union-attr]


def test_a_log_with_progress_bars_shows_their_last_state(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"first\n" + b"x" * 50 + b"\n 10%\r 50%\r100%\r\nend \x00\xff\n")
    assert log_tail(path, 30).splitlines() == ["100%", "end �"]


@pytest.fixture
def taken(cast: Cast) -> Claim:
    launch(cast)
    slots.ensure("here", Queue.CPU)
    found = claim(Queue.CPU, host="here", owner="me")
    assert found is not None
    return found


def test_the_same_lines_are_written_once(cast: Cast, taken: Claim, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = {"type": "log", "at": 1001.0, "message": "hello \u0000"}
    write(path, metrics(1, loss=1.0), metrics(2, loss=0.5, lr=0.1), log, metrics(2, loss=0.4))
    for _ in range(2):  # the second reader begins where the first one's transaction said
        job = Job.objects.get()
        attempt = job.attempts.get()
        ingest = Ingest(taken.own)
        ingest.take(EventReader(path, lines=attempt.lines, offset=attempt.line_bytes).read())
        ingest.flush()
    job.refresh_from_db()
    assert sorted(Metric.objects.values_list("key", "step", "value")) == [
        ("loss", 1, 1.0),
        ("loss", 2, 0.4),
        ("lr", 2, 0.1),
    ]
    said = [(event.type, event.line) for event in job.events.exclude(type="state")]
    assert said == [("log", 3), ("metrics", 4)]
    assert job.last_seq == job.events.count()
    assert job.latest == {"loss": 0.4, "lr": 0.1}


def test_whoever_lost_the_job_writes_nothing(cast: Cast, taken: Claim, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, metrics(1, loss=1.0))
    late = Ingest(Ownership(taken.job_id, taken.own.attempt, "somebody else"))
    late.take(EventReader(path).read())
    with pytest.raises(OwnershipLost):
        late.flush()
    with pytest.raises(OwnershipLost):
        Ownership(taken.job_id, taken.own.attempt - 1, "me").renew()
    assert not Metric.objects.exists()


def test_a_place_is_taken_once(cast: Cast, taken: Claim, settings: Any) -> None:
    settings.MAX_CPU_JOBS = 2
    slots.ensure("here", Queue.CPU)
    launch(cast)
    third = launch(cast)
    assert claim(Queue.CPU, host="here", owner="me") is not None
    assert claim(Queue.CPU, host="here", owner="me") is None
    slots.ensure("there", Queue.CPU)
    elsewhere = claim(Queue.CPU, host="there", owner="you")
    assert elsewhere is not None and elsewhere.job_id == third.pk


def test_thinning_keeps_the_extremes_in_order() -> None:
    points = [[step, 100.0 if step == 500 else float(step % 7)] for step in range(1000)]
    few = thinned(points, 60)
    assert len(few) <= 60
    assert [500, 100.0] in few
    assert few == sorted(few)
