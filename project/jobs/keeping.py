"""Checkpoints beside the training: the newest goes into a shared store, and what is not worth keeping goes away.

Files are read, sent and removed in a thread, one piece of work at a time; rows are written by the supervisor's own
thread, under its attempt. So a slow store holds up nobody: of several checkpoints that wait the newest is sent.
"""

import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Now

from project.jobs import policy
from project.jobs.checkpoints import Slowly
from project.jobs.ingest import Ingest
from project.jobs.models import TERMINAL, Checkpoint, Job
from project.jobs.ownership import Ownership
from project.kernel import artifacts
from project.kernel.models import Artifact, Workspace
from project.modeling import checkpoints as files

log = logging.getLogger(__name__)
ENOUGH = 100  # pieces of work at the end of an attempt; more means that something goes wrong again and again


@dataclass(frozen=True)
class Work:
    """What the thread does next: remove the files of some checkpoints, send one."""

    remove: list[Checkpoint]
    send: Checkpoint | None
    workspace: Workspace


@dataclass(frozen=True)
class Done:
    work: Work
    sent: Artifact | None = None


class Keeping:
    """`tick` never waits; `finish` does, at the end of the attempt; `close` leaves at once and cleans up afterwards."""

    def __init__(self, own: Ownership, ingest: Ingest) -> None:
        self._own, self._ingest = own, ingest
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="keeping")
        self._running: Future[Done] | None = None
        self._seen = 0  # checkpoints that were written when we last looked
        self._refused: set[int] = set()  # could not be sent
        self._sends = artifacts.is_shared()

    def tick(self) -> None:
        """Take in what the thread has done, and give it the next work. Raises OwnershipLost, and database errors."""
        if self._running is not None and self._running.done():
            self._take_in(self._running)
        if self._running is None and self._ingest.checkpoints_written != self._seen:
            self._begin()

    def finish(self, meanwhile: "Slowly[object]", *, send: bool) -> None:
        """Wait until everything is where it belongs: whoever goes on may do so on another host.

        `send` false sends nothing more than what is under way: a finished job needs it no longer.
        """
        self._sends = self._sends and send
        for _ in range(ENOUGH):
            if self._running is None:
                self._begin()
            if self._running is None:
                return
            running = self._running
            meanwhile(partial(wait_for, [running]))
            if self._running is running:  # else `tick` was there first
                self._take_in(running)
            if running.exception() is not None:
                return

    def close(self) -> None:
        """Forget what is under way; a copy that was sent meanwhile is removed again."""
        if self._running is not None:
            self._running.add_done_callback(_undo)
        self._pool.shutdown(wait=False)

    def _begin(self) -> None:
        self._seen = self._ingest.checkpoints_written
        work = self._next()
        if work.remove or work.send:
            self._running = self._pool.submit(_do, work)

    def _next(self) -> Work:
        job = Job.objects.select_related("workspace").get(pk=self._own.job_id)
        rows = list(job.checkpoints.select_related("artifact").order_by("-attempt", "-step"))
        mine = [row for row in rows if row.attempt == self._own.attempt and row.state == "here"]
        waiting = [row for row in mine if row.artifact_id is None and row.pk not in self._refused]
        return Work(
            remove=[row for row in rows if row.deleted_at and (row.artifact_id is not None or row.is_here)],
            send=waiting[0] if waiting and self._sends else None,
            workspace=job.workspace,
        )

    def _take_in(self, running: "Future[Done]") -> None:
        """Write down what was done; then look again, for it may not be all."""
        error = running.exception()
        if error is not None:
            log.warning("job %s: its checkpoints: %s: %s", self._own.job_id, type(error).__name__, error)
            self._running, self._seen = None, self._ingest.checkpoints_written
            return
        done = running.result()
        with transaction.atomic():
            self._own.lock()  # if it is lost, `close` removes what was sent
            _note(done)
        self._running, self._seen = None, -1
        if done.work.send is not None and done.sent is None:
            self._refused.add(done.work.send.pk)


def _do(work: Work) -> Done:
    """In the thread. Uses no database."""
    for row in work.remove:
        remove_files(row)
    return Done(work, _send(work.send, work.workspace) if work.send is not None else None)


def _send(row: Checkpoint, workspace: Workspace) -> Artifact | None:
    """Store a checkpoint and read it back. None when it can't be: pruned meanwhile, damaged, or the store is away."""
    try:
        sent = artifacts.upload_tree(row.folder, workspace=workspace, kind="checkpoint")
    except Exception as error:  # a remote store raises its client's own errors
        if row.is_here:
            log.warning("job %s: the %s could not be stored: %s: %s", row.job_id, row, type(error).__name__, error)
        return None
    manifest = {entry["path"]: entry["sha256"] for entry in sent.manifest}
    if manifest.get(files.MANIFEST) != row.digest or files.COMMIT not in manifest:  # it was removed under our hands
        _forget(sent)
        return None
    return sent


def _note(done: Done) -> None:
    if done.sent is not None and done.work.send is not None:
        if not Artifact.objects.filter(pk=done.sent.pk).exists():  # the connection may have broken after the commit
            done.sent.save(force_insert=True)
        Checkpoint.objects.filter(pk=done.work.send.pk).update(artifact=done.sent)
    forget_artifacts(done.work.remove)


def _undo(running: "Future[Done]") -> None:
    if not running.cancelled() and running.exception() is None and (sent := running.result().sent) is not None:
        _forget(sent)


def _forget(artifact: Artifact) -> None:
    with suppress(Exception):  # what is left has no row: nobody ever reads it
        artifacts.delete_files(artifact.key, [entry["path"] for entry in artifact.manifest])


def remove_files(row: Checkpoint) -> None:
    """Its folder on this host, and its stored files. Removing them twice is fine."""
    if row.is_here and _is_its_own(row):
        files.remove(row.folder)
    if row.artifact is not None:
        artifacts.delete_files(row.artifact.key, [entry["path"] for entry in row.artifact.manifest])


def _is_its_own(row: Checkpoint) -> bool:
    """Whether it lies below its run folder: its path was said by an engine, which may be anybody's code."""
    runs = Path(settings.RUNS_PATH) / str(row.job_id) / str(row.attempt)
    return runs.resolve() in row.folder.resolve().parents


def forget_artifacts(rows: list[Checkpoint]) -> None:
    """Remove the artifact rows of checkpoints whose stored files are gone."""
    keys = [row.artifact_id for row in rows if row.artifact_id is not None]
    Checkpoint.objects.filter(artifact__in=keys).update(artifact=None)
    Artifact.objects.filter(pk__in=keys).delete()


# --- long after the end


def clear_old() -> int:
    """Remove checkpoints, and run folders of this host, of jobs that ended KEEP_CHECKPOINTS_DAYS ago.

    Returns how many jobs had something to remove. Jobs that have not ended are left alone, and so is what one of them
    is to start from.
    """
    old = Job.objects.filter(state__in=TERMINAL, finished_at__lt=Now() - timedelta(days=settings.KEEP_CHECKPOINTS_DAYS))
    policy.let_go(Checkpoint.objects.filter(job__in=old))
    cleared = {row.job_id for row in _remove_stored(Checkpoint.objects.filter(job__in=old).exclude(deleted_at=None))}
    kept = Checkpoint.objects.filter(job=models.OuterRef("pk"), deleted_at=None)
    folders = _run_folders()
    for pk in old.filter(~models.Exists(kept), pk__in=folders).values_list("pk", flat=True):
        shutil.rmtree(folders[pk], ignore_errors=True)
        cleared.add(pk)
    return len(cleared)


def _remove_stored(rows: "models.QuerySet[Checkpoint]") -> list[Checkpoint]:
    removed = []
    for row in rows.exclude(artifact=None).select_related("artifact"):
        try:
            remove_files(row)
        except Exception as error:  # the store is away: another day
            log.warning("job %s: the %s could not be removed: %s", row.job_id, row, error)
            continue
        with transaction.atomic():
            forget_artifacts([row])
        removed.append(row)
    return removed


def _run_folders() -> dict[UUID, Path]:
    """Folders of this host that are named by a job's id."""
    root, found = Path(settings.RUNS_PATH), {}
    for folder in root.iterdir() if root.is_dir() else ():
        with suppress(ValueError):
            found[UUID(folder.name)] = folder
    return found
