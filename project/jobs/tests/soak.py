"""The soak: hours of random faults on a real PostgreSQL and Redis, and the ten promises at the end.

    make soak SECONDS=1800 SEED=7

Two workers and beat serve short jobs while workers and engines are killed, frozen and drained, jobs are paused, resumed
and cancelled, messages are lost and repeated, and Redis and PostgreSQL crash. Then everything is left alone, must come
to rest, and every promise is checked. Writes soak-SEED.md and soak-SEED.json; exits with 1 when a promise was broken.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from project.jobs.tests.chaos import Chaos
    from project.jobs.tests.servers import Redis
    from project.jobs.tests.stack import Stack

WEIGHTS = {
    "kill_worker": 3,
    "kill_engine": 4,
    "kill_both": 3,
    "freeze_worker": 2,
    "drain_worker": 3,
    "cancel": 2,
    "pause": 4,
    "resume": 4,
    "lose_messages": 3,
    "repeat_messages": 2,
    "kill_broker": 1,
    "restart_database": 1,
}
MOST_OPEN = 12  # jobs; more are submitted when there are fewer
ENVIRONMENT = {"queues": "cpu,gpu", "JOB_GRACE": "30", "MAX_CPU_JOBS": "2", "MAX_TRAINING_JOBS": "2"}


@dataclass(frozen=True)
class Report:
    """What happened. Times are in seconds."""

    seed: int
    seconds: float
    broken: str
    jobs: dict[str, int]
    failures: dict[str, int]
    attempts: int
    injected: dict[str, int]
    recoveries: int
    recovery_p50: float | None
    recovery_max: float | None

    def as_markdown(self) -> str:
        lines = [
            f"# Soak, seed {self.seed}",
            "",
            f"{self.seconds:.0f} s; {self.broken or 'all ten promises were kept'}.",
            "",
            "| what | count |",
            "|---|---|",
            *(f"| jobs that {state} | {count} |" for state, count in sorted(self.jobs.items())),
            *(f"| of the failed: {words} | {count} |" for words, count in sorted(self.failures.items())),
            f"| tries | {self.attempts} |",
            *(f"| {what} | {count} |" for what, count in sorted(self.injected.items())),
        ]
        if self.recovery_p50 is not None and self.recovery_max is not None:
            lines += [
                "",
                f"From the loss of a try until somebody went on with its job ({self.recoveries} times): "
                f"p50 {self.recovery_p50:.1f} s, at most {self.recovery_max:.1f} s.",
            ]
        return "\n".join(lines) + "\n"


def soak(stack: "Stack", redis: "Redis", *, seed: int, seconds: float, patience: float = 240) -> Report:
    """Do everything to a stack for `seconds`, let it rest, and look at what is left."""
    from project.jobs.tests.chaos import Chaos
    from project.jobs.tests.promises import BrokenPromise, check_promises

    begun = time.monotonic()
    chaos = Chaos(stack, seed, more=ENVIRONMENT, redis=redis)
    broken = ""
    try:
        stack.beat()
        while time.monotonic() - begun < seconds:
            step(chaos)
        chaos.finish(patience)
        check_promises(stack)
    except (BrokenPromise, AssertionError) as error:
        broken = str(error)
    return _report(chaos, seconds=time.monotonic() - begun, broken=broken)


def step(chaos: "Chaos") -> None:
    """One fault or wish at a random moment; what is missing is started again."""
    from project.jobs.models import TERMINAL, Job
    from project.jobs.tests.chaos import patiently

    chaos.wait(0.1, 2.0)
    if patiently(Job.objects.exclude(state__in=TERMINAL).count) < MOST_OPEN:
        chaos.submit(chaos.random.randrange(1, 5), recipe="")
    [name] = chaos.random.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
    getattr(chaos, name)()
    chaos.keep_workers()


def _report(chaos: "Chaos", *, seconds: float, broken: str) -> Report:
    from collections import Counter

    from project.jobs.models import Job, JobAttempt

    found = chaos.recoveries()
    return Report(
        seed=chaos.seed,
        seconds=round(seconds, 1),
        broken=broken,
        jobs=dict(Counter(Job.objects.values_list("state", flat=True))),
        failures=dict(Counter(Job.objects.filter(state="failed").values_list("failure_class", flat=True))),
        attempts=JobAttempt.objects.count(),
        injected=chaos.counts(),
        recoveries=len(found),
        recovery_p50=round(median(found), 2) if found else None,
        recovery_max=round(max(found), 2) if found else None,
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=None, help="random without one; it is printed")
    parser.add_argument("--report", type=Path, default=Path("build"), help="the folder for the report")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}, {options.seconds:.0f} s", flush=True)
    report = _with_servers(seed, options.seconds)
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / f"soak-{seed}.md").write_text(report.as_markdown())
    (options.report / f"soak-{seed}.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    print(report.as_markdown())
    return 1 if report.broken else 0


def _with_servers(seed: int, seconds: float) -> Report:
    from project.testing import start_postgres

    folder = Path(tempfile.mkdtemp(prefix="tuneloop-soak-"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    os.environ["TUNELOOP_EXTRA_RECIPES"] = "project.runner.tests.recipes,project.jobs.tests.recipes"
    import django

    django.setup()
    logging.getLogger("pgserver").setLevel(logging.WARNING)
    from django.conf import settings

    from project.jobs.tests.conftest import migrate, prepare
    from project.jobs.tests.servers import Redis
    from project.jobs.tests.stack import Stack, connected

    server, url = start_postgres(folder / "postgres")
    redis = Redis()
    redis.start()
    data = folder / "data"
    data.mkdir()
    stack = Stack(data, url, redis.url)
    kept = ""
    try:
        migrate(DATA_PATH=str(data), DATABASE_URL=url)
        prepare(stack, settings)
        with connected(stack):
            report = soak(stack, redis, seed=seed, seconds=seconds)
        kept = report.broken
        return report
    finally:
        stack.stop()
        redis.close()
        server.cleanup()
        if kept:
            print(f"what it left is in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
