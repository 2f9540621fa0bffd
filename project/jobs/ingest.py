"""Engine events into the database: in batches, once, and only while the job is ours."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from operator import itemgetter
from typing import Any

from django.db import transaction
from django.db.models import F

from project.contracts.events import Checkpoint as CheckpointSaid
from project.contracts.events import Event, Metrics, Progress, Started
from project.jobs import journal, points, policy, rollups
from project.jobs.models import Checkpoint, Job, JobAttempt, JobEvent
from project.jobs.models.job import as_time
from project.jobs.ownership import WISHES, Ownership
from project.jobs.points import Numbers
from project.jobs.reading import Line, Measured

PACE_WINDOW = 30.0  # seconds of progress that the ETA is taken from
POINTS_PER_EVENT = 60  # per key: what an open page gets live; the Metric table has all
MOST_WAITING = 200_000  # rows
LONGEST_TEXT = 20_000  # characters of one message, prompt or answer


@dataclass
class Batch:
    """What several lines come to: event rows without their numbers, metric rows, and what is newest."""

    events: list[JobEvent] = field(default_factory=list)
    metrics: dict[str, Numbers] = field(default_factory=dict)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    metrics_line: Line | None = None
    progress: Progress | None = None
    progress_line: Line | None = None
    versions: dict[str, str] = field(default_factory=dict)
    last_line: Line | None = None

    @property
    def rows(self) -> int:
        return len(self.events) + sum(map(len, self.metrics.values()))


class Ingest:
    """The database side of following one attempt: `take` lines as they come, `flush` a few times per second.

    While the database can't be reached lines stay here, up to `MOST_WAITING`; beyond it they stay in the file.
    """

    def __init__(self, own: Ownership) -> None:
        self._own = own
        self._waiting = Batch()
        self._unsure: Batch | None = None  # could not be written, as far as we know
        self._pace: deque[tuple[float, int]] = deque()
        self._shape: tuple[int, str, str] | None = None
        self._keys: dict[str, str] = {}  # what an engine calls a number -> as the database takes it
        self._ends: dict[str, rollups.End] = {}  # of each series, as it is committed
        self._latest: dict[str, float] | None = None  # the newest number of each, as it is committed
        self.checkpoints_written = 0

    @property
    def is_empty(self) -> bool:
        return self._unsure is None and self._waiting.last_line is None

    @property
    def is_full(self) -> bool:
        return self._waiting.rows + (self._unsure.rows if self._unsure else 0) >= MOST_WAITING

    def take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._waiting.last_line = line
            match line.event:
                case Measured() | Metrics() as said:
                    self._take_metrics(line, said)
                case Progress() as said:
                    self._take_progress(line, said)
                case Started() as said:
                    self._waiting.versions = said.versions
                    self._waiting.events.append(self._event(line, said))
                case CheckpointSaid() as said:
                    self._waiting.checkpoints[said.step] = policy.row_of(self._own, said, at=as_time(said.at))
                    self._waiting.events.append(self._event(line, said))
                case _ as said:
                    self._waiting.events.append(self._event(line, said))

    def flush(self, **attempt_fields: Any) -> Job:
        """Write everything that waits in one transaction, which also renews the lease. Returns the job with its wishes.

        Raises OwnershipLost, and database errors; then all of it still waits.
        """
        if self._unsure is not None:
            self._write_once_more(self._unsure)
        self._unsure, self._waiting = self._waiting, Batch()
        job = self._write(self._unsure, attempt_fields)
        self._unsure = None
        return job

    def _write_once_more(self, batch: Batch) -> None:
        """A commit that failed may have been done all the same, and only its answer lost."""
        lines = JobAttempt.objects.filter(job_id=self._own.job_id, number=self._own.attempt).values_list("lines")
        if batch.last_line is not None and lines.get()[0] >= batch.last_line.number:
            self._ends, self._latest = {}, None  # read again
            self.checkpoints_written += len(batch.checkpoints)
        else:
            self._write(batch, {})
        self._unsure = None

    def _write(self, batch: Batch, attempt_fields: Mapping[str, Any]) -> Job:
        with transaction.atomic():
            events = self._events(batch)
            latest = self._newest(batch)
            fields = self._progress_fields(batch) | ({"latest": latest} if batch.latest else {})
            job = self._own.write("last_seq", *WISHES, last_seq=F("last_seq") + len(events), **fields)
            for seq, event in enumerate(events, job.last_seq - len(events) + 1):
                event.seq = seq
            JobEvent.objects.bulk_create(events, batch_size=500)
            ends = self._write_metrics(batch)
            policy.write(job, batch.checkpoints.values())
            self._write_attempt(batch, attempt_fields)
            journal.hint(job)
        self._ends, self._latest = ends, latest
        self.checkpoints_written += len(batch.checkpoints)
        return job

    def _newest(self, batch: Batch) -> dict[str, float] | None:
        """The newest number of each series, once the batch is written. Nobody else writes them."""
        if not batch.latest:
            return self._latest
        if self._latest is None:
            self._latest = self._own.rows().values_list("latest", flat=True).first() or {}
        return {**self._latest, **batch.latest}

    def _event(self, line: Line, said: Event) -> JobEvent:
        body = said.model_dump(mode="json", exclude={"type", "at"})
        return self._row(line, said.type, _storable(body))

    def _row(self, line: Line, kind: str, body: dict[str, Any]) -> JobEvent:
        return JobEvent(
            job_id=self._own.job_id,
            attempt=self._own.attempt,
            line=line.number,
            type=kind,
            at=as_time(line.event.at),
            body=body,
        )

    def _take_metrics(self, line: Line, said: Measured | Metrics) -> None:
        batch = self._waiting
        batch.metrics_line = line
        for name, value in said.values.items():
            if not isfinite(value):
                continue  # no database and no chart has a place for it
            key = self._keys.get(name) or self._keys.setdefault(name, name[:100].replace("\x00", ""))
            if key not in batch.metrics:
                batch.metrics[key] = {}
            batch.metrics[key][said.step] = (value, said.at)
            batch.latest[key] = value

    def _write_metrics(self, batch: Batch) -> dict[str, rollups.End]:
        """Write points and roll-ups; returns where the series end once this is committed."""
        if not batch.metrics:
            return self._ends
        before = self._ends | rollups.ends(self._own.job_id, batch.metrics.keys() - self._ends.keys())
        new = {key: said for key, said in batch.metrics.items() if key not in before or min(said) > before[key].step}
        points.add(self._own, new)
        points.replace(self._own, {key: said for key, said in batch.metrics.items() if key not in new})
        values = {key: {step: value for step, (value, _) in said.items()} for key, said in batch.metrics.items()}
        return rollups.update(self._own.job_id, values, before)

    def _take_progress(self, line: Line, said: Progress) -> None:
        """Only the newest becomes an event, and the last one of each phase."""
        batch = self._waiting
        if batch.progress and batch.progress_line and batch.progress.phase != said.phase:
            batch.events.append(self._event(batch.progress_line, batch.progress))
        batch.progress, batch.progress_line = said, line
        shape = (said.total, said.unit, said.phase)
        if shape != self._shape:
            self._pace.clear()
            self._shape = shape
        if not self._pace or said.step >= self._pace[-1][1]:
            self._pace.append((said.at, said.step))
        while len(self._pace) > 2 and said.at - self._pace[0][0] > PACE_WINDOW:
            self._pace.popleft()

    def _rate(self) -> float | None:
        """Steps per second lately."""
        (begun, first), (now, last) = self._pace[0], self._pace[-1]
        return (last - first) / (now - begun) if now > begun and last > first else None

    def _progress_fields(self, batch: Batch) -> dict[str, Any]:
        said = batch.progress
        if said is None:
            return {}
        return {
            "step": said.step,
            "total": said.total,
            "unit": said.unit[:30].replace("\x00", ""),
            "phase": said.phase[:100].replace("\x00", ""),
            "epoch": said.epoch,
            "rate": self._rate(),
            "progress_at": as_time(said.at),
        }

    def _events(self, batch: Batch) -> list[JobEvent]:
        """The events of a batch, still without their numbers; of one that is written again as if for the first time."""
        events = [*batch.events, *self._progress_event(batch), *self._metrics_event(batch)]
        events.sort(key=lambda event: event.line or 0)
        for event in events:
            event.pk = None
        return events

    def _progress_event(self, batch: Batch) -> list[JobEvent]:
        said, line, rate = batch.progress, batch.progress_line, self._rate() if self._pace else None
        if said is None or line is None:
            return []
        event = self._event(line, said)
        if rate and said.total:
            event.body["eta_seconds"] = round((said.total - said.step) / rate, 1)
        return [event]

    def _metrics_event(self, batch: Batch) -> list[JobEvent]:
        """One event for all numbers of the batch: the newest, and `points` where a key has several."""
        line = batch.metrics_line
        if line is None or not batch.metrics:
            return []
        body: dict[str, Any] = {"step": max(map(max, batch.metrics.values())), "values": batch.latest}
        if len({step for said in batch.metrics.values() for step in said}) > 1:
            body["points"] = {
                key: thinned([[step, value] for step, (value, _) in said.items()], POINTS_PER_EVENT)
                for key, said in batch.metrics.items()
            }
        return [self._row(line, "metrics", body)]

    def _write_attempt(self, batch: Batch, fields: Mapping[str, Any]) -> None:
        if batch.last_line:
            fields = {**fields, "lines": batch.last_line.number, "line_bytes": batch.last_line.next_offset}
        if batch.versions:
            fields = {**fields, "versions": batch.versions}
        if fields:
            JobAttempt.objects.filter(job_id=self._own.job_id, number=self._own.attempt).update(**fields)


def thinned(series: list[list[float]], most: int) -> list[list[float]]:
    """At most `most` of the points, with the least and the greatest of each stretch, in their order."""
    if len(series) <= most:
        return series
    stretch = -(-len(series) // (most // 2))
    kept = []
    for begin in range(0, len(series), stretch):
        part = series[begin : begin + stretch]
        least = min(part, key=itemgetter(1))
        greatest = max(part, key=itemgetter(1))
        kept += [least] if least is greatest else sorted([least, greatest])
    return kept


def _storable(value: Any) -> Any:
    """Texts a database takes: no NUL, and of a very long one the beginning."""
    if isinstance(value, dict):
        return {str(key).replace("\x00", ""): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, str):
        text = value.replace("\x00", "")
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"
    return value
