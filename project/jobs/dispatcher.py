"""What makes a process a worker: it takes jobs of its queues while its host has places, one supervisor thread each.

A ring wakes it at once; without one it looks into the database at every beat, so that a broker that is down, flushed
or slow costs seconds and nothing else. Supervisors are threads: they wait most of the time, the work is in processes
of its own, and one that runs for days holds up nobody.
"""

import logging
import threading
import time
from collections.abc import Iterable
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, connections
from django.db.models.functions import Now

from project.jobs import reaper, slots
from project.jobs.claim import Claim, adopt, claim
from project.jobs.identity import Identity
from project.jobs.models import Worker
from project.jobs.supervisor import Supervisor
from project.jobs.warming import WarmParent

log = logging.getLogger(__name__)


class Dispatcher:
    """`start`, then `drain` and `join`. `wake` may be called from any thread."""

    def __init__(self, queues: Iterable[str]) -> None:
        self.identity = Identity.mine()
        self.queues = sorted(queues)
        self._wake = threading.Event()
        self._draining = threading.Event()
        self._supervised: dict[threading.Thread, UUID] = {}
        self._thread = threading.Thread(target=self._live, name="dispatcher", daemon=True)
        self._beaten_at = -1e9
        self._has_places = False
        self._warm = WarmParent() if WarmParent.is_wanted(self.queues) else None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def drain(self) -> None:
        """Take nothing new, let engines save and stop, and give their jobs back to the queue."""
        self._draining.set()
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait for the end of a drain; false when it takes longer than `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _live(self) -> None:
        try:
            while not (self._draining.is_set() and not self._running()):
                try:
                    self._turn()
                except (OperationalError, InterfaceError) as error:
                    log.warning("worker: the database can't be reached: %s", error)
                    connection.close()
                except Exception:
                    log.exception("worker: a turn of the dispatcher failed")
                    connection.close()
                self._wake.wait(settings.JOB_BEAT)
                self._wake.clear()
            self._leave()
        finally:
            if self._warm:
                self._warm.stop()
            connections.close_all()

    def _turn(self) -> None:
        """One look around: say that we live, clean up after the dead, fill free places."""
        self._say_alive()
        reaper.kill_left_behind(settings.HOST_NAME)
        if self._draining.is_set():
            return
        if self._warm:
            self._warm.tend()
        self._adopt()
        self._running()
        reaper.recover_strays(str(self.identity), supervised=self._supervised.values())
        if not self._has_places:
            for queue in self.queues:
                slots.ensure(settings.HOST_NAME, queue)
            self._has_places = True
        for queue in self.queues:
            while taken := claim(queue, host=settings.HOST_NAME, owner=str(self.identity)):
                self._supervise(taken)

    def _adopt(self) -> None:
        """Go on with what a worker of this host was doing when it died."""
        for attempt in reaper.orphans(settings.HOST_NAME):
            if attempt.job.queue in self.queues and (taken := adopt(attempt, owner=str(self.identity))):
                log.warning("job %s: the worker of attempt %s died; going on with it", taken.job_id, attempt.number)
                self._supervise(taken)

    def _supervise(self, taken: Claim) -> None:
        def work() -> None:
            try:
                Supervisor(taken, draining=self._draining, warm=self._warm).run()
            except Exception:  # our next turn finds the job without a supervisor
                log.exception("job %s: its supervisor failed", taken.job_id)
            finally:
                connections.close_all()
                self.wake()

        thread = threading.Thread(target=work, name=f"job {taken.job_id}", daemon=True)
        thread.start()
        self._supervised[thread] = taken.job_id

    def _running(self) -> bool:
        self._supervised = {thread: job for thread, job in self._supervised.items() if thread.is_alive()}
        return bool(self._supervised)

    def _say_alive(self) -> None:
        if time.monotonic() - self._beaten_at < settings.JOB_BEAT and not self._draining.is_set():
            return
        told = Worker.objects.filter(pk=str(self.identity)).update(heartbeat_at=Now(), draining=self._draining.is_set())
        if not told:
            Worker.objects.create(
                id=str(self.identity),
                host=settings.HOST_NAME,
                pid=self.identity.pid,
                queues=self.queues,
                started_at=Now(),
                heartbeat_at=Now(),
            )
        self._beaten_at = time.monotonic()

    def _leave(self) -> None:
        try:
            Worker.objects.filter(pk=str(self.identity)).delete()
        except (OperationalError, InterfaceError):
            log.warning("worker: could not say good-bye; the database can't be reached")
