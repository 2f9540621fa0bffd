"""One claimed attempt, from its run folder to its end: the only writer about a running job.

It starts the engine in a process of its own, or takes over one whose worker died, renews the lease, follows what the
engine says, passes on a wish to stop, enforces the limits, and writes how it ended. Every write is fenced
(`Ownership`): once it finds that the job is no longer its own, it kills the engine and says nothing. While the database
can't be reached it goes on, and gives up after JOB_GRACE.
"""

import contextlib
import errno
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from project.contracts.chat import Endpoint
from project.contracts.events import FINAL, Done, Event, Failed, FailureClass, Stopped
from project.contracts.plugins import UnknownPlugin
from project.contracts.runs import RECIPES, Recipe, RunSpec
from project.jobs import checkpoints, ending, host, memory
from project.jobs.claim import Claim
from project.jobs.ending import Exit, Failure
from project.jobs.engine import Ended, Engine, beat
from project.jobs.ingest import Ingest
from project.jobs.keeping import Keeping
from project.jobs.models import Job, JobState
from project.jobs.ownership import WISHES, OwnershipLost
from project.jobs.reading import EventReader, final_event, log_tail
from project.jobs.warming import WarmParent
from project.kernel import artifacts
from project.kernel.actions import endpoints
from project.kernel.errors import Problem
from project.kernel.models import Artifact
from project.kernel.models import Endpoint as StoredEndpoint
from project.runner.process import EXIT_FULL

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK = 0.1  # seconds between two looks at slow work, or at a database that is away
FLUSH = ((10, 0.25), (30, 0.5))  # (until this age, seconds between two writes): at most four frames per second,
SLOW_FLUSH = 1.0  # and fewer for a job that takes longer
LOOKS = 0.4  # of such a pause: between two looks at the events file
LOOK = 1.0  # seconds between two looks at the job's flags
LOG_EVERY = 5.0  # seconds between two copies of the log's tail
LOG_BYTES = 16 * 1024
EVIDENCE = 20  # lines of the log shown with a failure


@dataclass(frozen=True)
class Limits:
    """What a job may use: seconds of work over all tries, bytes of memory; and what earlier tries worked."""

    seconds: int | None = None
    memory: int | None = None
    worked: float = 0.0

    def is_over(self, seconds: float) -> bool:
        """Is the time up, `seconds` after the beginning of this try?"""
        return self.seconds is not None and self.worked + seconds > self.seconds


class NothingToAdopt(Exception):
    """The engine of a dead worker is gone too, and left no result."""


class DatabaseGone(Exception):
    """It can't be reached for longer than JOB_GRACE: whoever finds the job's lease expired goes on with it."""


class Supervisor:
    """`draining` set means: this worker goes away; save, stop, and leave the job to another one."""

    def __init__(
        self, claim: Claim, *, draining: threading.Event | None = None, warm: WarmParent | None = None
    ) -> None:
        self._own, self._device, self._adopts = claim.own, claim.device, claim.adopted
        self._draining = draining or threading.Event()
        self._warm = warm
        self._folder = Path(settings.RUNS_PATH) / str(claim.job_id) / str(claim.own.attempt)
        self._ingest = Ingest(claim.own)
        self._keeping = Keeping(claim.own, self._ingest)
        self._reader = EventReader(self._folder / "events.jsonl")
        self._engine: Engine | None = None
        self._final: Event | None = None
        self._stopping = ""  # why the engine was asked to stop: 'cancel', 'pause', 'drain', 'time'
        self._wish = ""  # what others want: 'cancel', 'pause'
        self._killed: Failure | None = None  # why we killed it
        self._limits = Limits()
        self._stopping_since = 0.0
        self._database_down_since: float | None = None
        self._flushed_at = self._looked_at = self._renewed_at = self._beaten_at = self._logged_at = (
            self._measured_at
        ) = 0.0
        self._log_size = -1
        self._begun = time.monotonic()

    def run(self) -> None:
        """Returns when the attempt is over, whatever became of it. Never leaves a process behind."""
        try:
            self._run()
        except OwnershipLost:
            log.warning("job %s: attempt %s is no longer ours", self._own.job_id, self._own.attempt)
            self._leave_behind_nothing()
        except DatabaseGone:
            log.error("job %s: no database for %s s, giving up", self._own.job_id, settings.JOB_GRACE)
            self._stop_and_wait()
            self._leave_behind_nothing()
        except BaseException:
            self._leave_behind_nothing()
            raise
        finally:
            self._keeping.close()
            shutil.rmtree(self._folder / "tmp", ignore_errors=True)

    def _run(self) -> None:
        job = self._surely(lambda: Job.objects.select_related("workspace").get(pk=self._own.job_id))
        try:
            engine = self._engine = self._adopted(job) if self._adopts else self._started(job)
        except (NothingToAdopt, Problem, OSError) as error:
            if self._adopts:
                self._read_the_rest()  # what was said before it died, above all its last checkpoint
            self._fail(_why_it_could_not_start(error), Exit(gone=True))
            return
        self._limits = Limits(job.time_limit, job.memory_limit, job.worked)
        oom_kills = host.oom_kills()
        ended = self._follow(engine)
        gone = engine.kill()  # what it started and left behind
        self._read_the_rest()
        goes_on = self._stopping != "cancel" and not isinstance(self._final, Done)  # perhaps on another host
        self._surely(lambda: self._keeping.finish(self._meanwhile, send=goes_on))
        host_was_full = host.oom_kills() > oom_kills
        self._conclude(job, ended, Exit(ended.code, ended.signal, gone=gone), host_was_full=host_was_full)

    # --- before

    def _started(self, job: Job) -> Engine:
        recipe = _recipe(job)
        host.check_disk(recipe, job)
        spec, called = self._prepare(job), self._surely(lambda: _endpoints(job))
        engine = self._engine = Engine.start(self._folder, spec, recipe, warm=self._warm, endpoints=called)
        self._surely(lambda: self._note_process(engine))
        return engine

    def _adopted(self, job: Job) -> Engine:
        """The engine of this attempt, whose worker died: follow it from the line where that one stopped."""
        attempt = self._surely(lambda: self._own.attempt_rows().get())
        self._reader = EventReader(self._folder / "events.jsonl", lines=attempt.lines, offset=attempt.line_bytes)
        engine = Engine.of_run(self._folder, attempt.pid, attempt.process_created)
        if engine.ended() is not None and final_event(self._folder / "events.jsonl") is None:
            engine.kill()
            raise NothingToAdopt(f"Its worker on {attempt.host} died.")
        self._begun -= max(0.0, (timezone.now() - attempt.started_at).total_seconds())
        beat(self._folder)
        return engine

    def _prepare(self, job: Job) -> RunSpec:
        """Make the run folder and bring the inputs to this host, while the lease goes on."""
        shutil.rmtree(self._folder, ignore_errors=True)  # of a database that was restored to an earlier day
        self._folder.mkdir(parents=True)
        resume_from = self._surely(
            lambda: checkpoints.to_resume(job, own=self._own, into=self._folder, meanwhile=self._meanwhile)
        )
        files = {name: value for name, value in job.inputs.items() if "endpoint" not in value}
        wanted = {name: _input_artifact(job, name, value) for name, value in files.items()}

        def fetch() -> dict[str, str]:
            return {
                name: str(artifacts.local_path(artifact)) if artifact else files[name]["path"]
                for name, artifact in wanted.items()
            }

        return RunSpec(
            job=str(job.pk),
            attempt=self._own.attempt,
            recipe=job.recipe,
            params=job.effective_params,
            inputs=self._meanwhile(fetch) if any(wanted.values()) else fetch(),
            resume_from=str(resume_from) if resume_from else None,
            cache=str(Path(settings.MODEL_CACHE_PATH) / "engines"),
            device=self._device,
            threads=settings.ENGINE_THREADS,
            silence_limit=settings.JOB_GRACE,
        )

    def _note_process(self, engine: Engine) -> None:
        with transaction.atomic():
            self._own.lock()
            self._own.attempt_rows().update(pid=engine.pid, process_created=engine.created)

    # --- during

    def _follow(self, engine: Engine) -> Ended:
        while True:
            ended = engine.wait(min(self._pause_between_writes(time.monotonic()) * LOOKS, settings.JOB_BEAT))
            self._take_events()
            self._stay_alive()
            self._pass_on_wishes(engine)
            self._watch_memory(engine)
            if ended is not None:
                return ended

    def _take_events(self) -> bool:
        """Read what the engine wrote; true when there was something."""
        if self._ingest.is_full:  # the database is away: what comes now stays in the file
            return False
        before = self._reader.offset
        lines = self._reader.read()
        for line in lines:
            if isinstance(line.event, FINAL):
                self._final = line.event
        self._ingest.take(lines)
        return self._reader.offset > before

    def _stay_alive(self) -> None:
        """The heartbeat for the engine, the lease for the database, and what was said since."""
        now = time.monotonic()
        if now - self._beaten_at >= min(LOOK, settings.JOB_BEAT):
            self._beaten_at = now
            beat(self._folder)
        if now - self._flushed_at >= self._pause_between_writes(now) and (
            not self._ingest.is_empty or self._log_is_due(now)
        ):
            self._flushed_at = now
            if self._if_possible(self._flush):
                self._renewed_at = now
        elif now - self._renewed_at >= settings.JOB_BEAT:
            self._renewed_at = now
            self._if_possible(self._own.renew)
        self._if_possible(self._keeping.tick)

    def _pause_between_writes(self, now: float) -> float:
        return next((pause for age, pause in FLUSH if now - self._begun < age), SLOW_FLUSH)

    def _flush(self) -> None:
        due, size = self._log_is_due(time.monotonic()), self._size_of_log()
        job = self._ingest.flush(**(self._log_fields(size) if due else {}))
        if due:  # and written
            self._logged_at, self._log_size = time.monotonic(), size
        self._heed(job)

    def _log_is_due(self, now: float) -> bool:
        return now - self._logged_at >= LOG_EVERY and self._size_of_log() != self._log_size

    def _log_fields(self, size: int) -> dict[str, object]:
        return {"log_bytes": size, "log_tail": log_tail(self._folder / "log.txt", LOG_BYTES)}

    def _size_of_log(self) -> int:
        with contextlib.suppress(OSError):
            return (self._folder / "log.txt").stat().st_size
        return 0

    def _pass_on_wishes(self, engine: Engine) -> None:
        """Ask the engine to stop when somebody wants that or its time is up; kill it when it does not obey in time."""
        now = time.monotonic()
        if not self._stopping:
            if now - self._looked_at >= min(LOOK, settings.JOB_BEAT):
                self._looked_at = now
                self._if_possible(self._look)
            self._stopping = self._reason_to_stop(now)
            if self._stopping:
                self._stopping_since = now
                engine.ask_to_stop()
        if self._stopping and now - self._stopping_since > settings.JOB_STOP_TIMEOUT:
            engine.kill()

    def _reason_to_stop(self, now: float) -> str:
        if self._wish:
            return self._wish
        if self._draining.is_set():
            return "drain"
        return "time" if self._limits.is_over(now - self._begun) else ""

    def _look(self) -> None:
        """Ask what others want; every flush tells it too."""
        job = self._own.rows().only(*WISHES).first()
        if job is None:
            raise OwnershipLost
        self._heed(job)

    def _heed(self, job: Job) -> None:
        self._looked_at = time.monotonic()
        self._limits = Limits(job.time_limit, job.memory_limit, job.worked)
        if job.cancel_requested_at is not None:
            self._wish = "cancel"
        else:
            self._wish = "pause" if job.state == JobState.PAUSING else ""

    def _watch_memory(self, engine: Engine) -> None:
        """Refuse an engine more of the host's memory than it may hold, and kill one that got it all the same.

        On a GPU nothing is refused: its driver maps far more than anybody touches.
        """
        limit, now = self._limits.memory, time.monotonic()
        if not limit or self._killed or now - self._measured_at < LOOK:
            return
        self._measured_at = now
        processes = memory.held(engine.pid)
        held = sum(process.resident for process in processes)
        if held > limit:
            self._killed = self._too_much(f"It held {held / 2**30:.1f} GiB of the host's memory")
            engine.kill()
        elif self._device == "cpu":
            memory.allow(processes, limit - held)

    def _too_much(self, what: str) -> Failure:
        limit = (self._limits.memory or 0) / 2**30
        message = f"{what}; its limit is {limit:.1f} GiB."
        hint = "Raise the job's memory limit, or use a smaller batch or shorter sequences."
        return Failure(FailureClass.HOST_MEMORY, message, hint, "memory_limit", final=True)

    # --- after

    def _read_the_rest(self) -> None:
        while True:
            if self._ingest.is_full:
                self._surely(self._flush)
            if not self._take_events():
                break
        self._logged_at, self._log_size = 0.0, -1  # the end of the log is always kept
        self._surely(self._flush)

    def _conclude(self, job: Job, ended: Ended, exit: Exit, *, host_was_full: bool) -> None:
        """Write how it ended. Finished work counts even if somebody wanted to stop it at the last moment."""
        final = self._final or final_event(self._folder / "events.jsonl")  # the worker before us may have read it
        if not isinstance(final, Done):  # half a result is of no use, and may be what has filled the disk
            shutil.rmtree(self._folder / "artifact", ignore_errors=True)
        match final:
            case Done() as done if exit.code in (0, None) and exit.signal is None:
                self._succeed(job, done, exit)
            case Failed() as failed if self._stopping != "cancel":
                self._fail(self._why_it_failed(failed), exit)
            case _ if self._stopping == "time":
                self._fail(self._out_of_time(), exit)
            case _ if self._stopping:
                drained = self._draining.is_set()
                reason = "Its worker was stopped." if drained else "It was resumed while it was pausing."
                self._surely(lambda: self._end(lambda job: ending.stop(job, exit=exit, reason=reason)))
            case _ if self._killed:
                self._fail(self._killed, exit)
            case Stopped():
                message = "The engine was stopped from outside."
                self._surely(lambda: self._end(lambda job: ending.lose(job, message, exit=exit)))
            case _:
                self._fail(self._why_it_died(ended, host_was_full=host_was_full), exit)

    def _why_it_failed(self, said: Failed) -> Failure:
        lines = self._evidence()
        if self._device != "cpu" or not self._limits.memory:  # nothing was refused
            return Failure(said.failure, said.message, said.hint, said.field, lines)
        if said.failure == FailureClass.HOST_MEMORY:
            return replace(self._too_much("It asked for more of the host's memory than it may hold"), lines=lines)
        if said.failure == FailureClass.DEVICE_MEMORY:  # what PyTorch says of memory it was refused
            limit = f"The job's own limit is {self._limits.memory / 2**30:.1f} GiB."
            return Failure(said.failure, f"{said.message} {limit}", said.hint, "memory_limit", lines)
        return Failure(said.failure, said.message, said.hint, said.field, lines)

    def _out_of_time(self) -> Failure:
        limit = timedelta(seconds=self._limits.seconds or 0)
        return Failure(
            FailureClass.TIME_LIMIT,
            f"It was stopped after {limit} of work, its time limit.",
            "Retry from its last checkpoint with a higher limit.",
            "time_limit",
        )

    def _succeed(self, job: Job, done: Done, exit: Exit) -> None:
        artifact = None
        if done.artifact is not None:
            try:
                artifact = self._store(job, self._folder / done.artifact)
            except (Problem, OSError, ValueError) as error:
                self._fail(_why_it_could_not_be_stored(error), exit)
                return
        try:
            self._surely(lambda: self._end(lambda job: _succeed(job, done, artifact, exit)))
        except Problem as problem:
            why = Failure(FailureClass.USER_ERROR, problem.detail, "The work itself is done; its files are kept.")
            self._fail(why, exit, artifact)
        except OwnershipLost:  # or it was committed, and the connection broke before we were told
            if artifact and not self._surely(lambda: Artifact.objects.filter(pk=artifact.pk).exists()):
                artifacts.delete_files(artifact.key, [entry["path"] for entry in artifact.manifest])
            raise
        except (DatabaseGone, OperationalError, InterfaceError):
            raise
        except Exception as error:
            log.exception("job %s: its result could not be taken over", self._own.job_id)
            message = f"The result could not be taken over: {type(error).__name__}: {error}"
            hint = "The work itself is done; its files are kept. This is a mistake of ours; the worker's log has more."
            self._fail(Failure(FailureClass.CRASH, message, hint), exit, artifact)

    def _store(self, job: Job, folder: Path) -> Artifact:
        """Upload and verify, without the row, while the lease goes on."""
        if not folder.is_dir():  # taken over by a store on the same disk, for an artifact that has no row
            raise OSError(f"The worker before this one died while it stored {folder.name}")
        return self._meanwhile(
            lambda: artifacts.upload_tree(
                folder, workspace=job.workspace, kind=job.recipe[:30], created_by=job.created_by, move=True
            ),
            undo=lambda made: artifacts.delete_files(made.key, [entry["path"] for entry in made.manifest]),
        )

    def _fail(self, why: Failure, exit: Exit, artifact: Artifact | None = None) -> None:
        def fail(job: Job) -> None:
            if artifact:
                artifact.save(force_insert=True)
            ending.fail(job, why, exit=exit, artifact=artifact)

        self._surely(lambda: self._end(fail))

    def _end(self, write: Callable[[Job], None]) -> None:
        """The fenced transaction in which everything about the end is written."""
        with transaction.atomic():
            write(self._own.lock())

    def _why_it_died(self, ended: Ended, *, host_was_full: bool) -> Failure:
        lines = self._evidence()
        if ended.signal == signal.SIGKILL and host_was_full:
            message = "The host ran out of memory, and its kernel killed the engine."
            hint = "Use a smaller batch or shorter sequences, run fewer jobs at once, or use a larger host."
            return Failure(FailureClass.HOST_MEMORY, message, hint, lines=lines)
        if ended.code == EXIT_FULL:
            message = "The disk is full, and not even the reason could be written."
            return Failure(FailureClass.STORAGE_FULL, message, "Free space, then retry.", lines=lines)
        if ended.signal in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):  # nobody does that to itself
            name = signal.Signals(ended.signal).name
            hint = (
                "Somebody or something on its host did that; a container's memory limit does. Look at the host's log."
            )
            return Failure(FailureClass.INFRASTRUCTURE, f"The engine was killed ({name}).", hint, lines=lines)
        if ended.signal:
            name = signal.Signals(ended.signal).name
            hint = "The last lines of its log may say why."
            return Failure(FailureClass.CRASH, f"The engine crashed ({name}).", hint, lines=lines)
        if ended.code is None:
            return Failure(FailureClass.INFRASTRUCTURE, "The engine disappeared without saying why.", lines=lines)
        last = f" Its last words: {lines[-1]}" if lines else ""
        message = f"The engine ended with code {ended.code} without saying why.{last}"
        return Failure(FailureClass.CRASH, message, "The last lines of its log may say why.", lines=lines)

    def _evidence(self) -> list[str]:
        lines = log_tail(self._folder / "log.txt", LOG_BYTES).splitlines()
        return [line for line in lines if line.strip()][-EVIDENCE:]

    # --- leaving early

    def _stop_and_wait(self) -> None:
        if self._engine and self._engine.ended() is None:
            self._engine.ask_to_stop()
            self._engine.wait(settings.JOB_STOP_TIMEOUT)

    def _leave_behind_nothing(self) -> None:
        gone = self._engine.kill() if self._engine else True
        with contextlib.suppress(OperationalError, InterfaceError):
            self._own.attempt_rows().update(engine_gone=gone)

    # --- a database that may be away

    def _if_possible(self, call: Callable[[], object]) -> bool:
        """Do it now, or not at all; later is soon enough. Raises OwnershipLost, and DatabaseGone after JOB_GRACE."""
        try:
            call()
        except (OperationalError, InterfaceError) as error:
            self._note_absence(error)
            return False
        self._database_down_since = None
        return True

    def _surely(self, call: Callable[[], T]) -> T:
        """Do it, however often it takes; meanwhile the engine is told that we live."""
        pause = TICK
        while True:
            try:
                result = call()
            except (OperationalError, InterfaceError) as error:
                self._note_absence(error)
                if self._folder.is_dir():
                    beat(self._folder)
                time.sleep(pause)
                pause = min(2 * pause, LOOK)
            else:
                self._database_down_since = None
                return result

    def _note_absence(self, error: Exception) -> None:
        if connection.in_atomic_block:  # only in tests: there is no transaction left to try again in
            raise error
        connection.close()
        now = time.monotonic()
        if self._database_down_since is None:
            self._database_down_since = now
            log.warning("job %s: the database can't be reached: %s", self._own.job_id, error)
        elif now - self._database_down_since > settings.JOB_GRACE:
            raise DatabaseGone from error

    def _meanwhile(self, call: Callable[[], T], *, undo: Callable[[T], None] | None = None) -> T:
        """Do slow work that needs no database in a thread, and renew the lease until it is done."""
        with ThreadPoolExecutor(1, thread_name_prefix="slow") as pool:
            future: Future[T] = pool.submit(call)
            try:
                while not wait_for([future], timeout=TICK).done:
                    self._stay_alive()
            except BaseException:
                if undo and future.exception() is None:  # waits for its end
                    undo(future.result())
                raise
            return future.result()


def _recipe(job: Job) -> Recipe | None:
    try:
        return RECIPES.get(job.recipe)
    except UnknownPlugin:
        return None  # the engine says so, in the words everybody knows


def _input_artifact(job: Job, name: str, value: dict[str, str]) -> Artifact | None:
    if "artifact" not in value:
        return None
    found = Artifact.objects.filter(pk=UUID(value["artifact"]), workspace=job.workspace).first()
    if found is None:
        raise Problem(f"The input '{name}' is gone.")
    return found


def _endpoints(job: Job) -> dict[str, Endpoint]:
    """What the inputs that are endpoints resolve to at this moment, tokens in the clear. Raises Problem."""
    found: dict[str, Endpoint] = {}
    for name, value in job.inputs.items():
        if "endpoint" in value:
            rows = StoredEndpoint.objects.select_related("secret")
            endpoint = rows.filter(pk=UUID(value["endpoint"]), workspace=job.workspace).first()
            if endpoint is None:
                raise Problem("The endpoint it was to call has been deleted.")
            found[name] = endpoints.callable_endpoint(endpoint)
    return found


def _succeed(job: Job, done: Done, artifact: Artifact | None, exit: Exit) -> None:
    if artifact:
        artifact.save(force_insert=True)
    ending.succeed(job, done.result, artifact, exit=exit)


def _why_it_could_not_start(error: NothingToAdopt | Problem | OSError) -> Failure:
    if isinstance(error, NothingToAdopt):
        return Failure(FailureClass.INFRASTRUCTURE, str(error))
    if isinstance(error, Problem):
        return Failure(FailureClass.USER_ERROR, f"The job could not start: {error.detail}")
    return _disk(error) or Failure(FailureClass.INFRASTRUCTURE, f"The engine could not be started: {error}")


def _why_it_could_not_be_stored(error: Exception) -> Failure:
    message = f"The result could not be stored: {error}"
    if isinstance(error, ValueError):  # a folder that no store takes, such as one with links
        return Failure(FailureClass.CRASH, message, "This is a mistake of the recipe.")
    return _disk(error) or Failure(
        FailureClass.INFRASTRUCTURE, message, "See that the artifact store works, and retry."
    )


def _disk(error: Exception) -> Failure | None:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in str(error):  # a copied folder's errors come as one without a number
        return Failure(FailureClass.STORAGE_FULL, f"The disk is full: {error}", "Free space, then retry.")
    return None


__all__ = ["DatabaseGone", "Supervisor"]
