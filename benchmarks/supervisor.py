"""What supervising a job costs: CPU seconds of the supervisor's thread beside the job's wall time.

    python benchmarks/supervisor.py [--seconds 60] [--repeats 3]

Jobs of a minute that do nothing but say a number and their progress, once and 20 times a second, on SQLite and on
PostgreSQL (its own, on loopback). The engine is a process of its own, so the thread's CPU is all that supervising
costs here; the database's own work is not in it. Writes benchmarks/results/supervisor.md and supervisor.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACES = (1, 20)  # steps per second
TARGET = 1.0  # percent of the job's wall time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("SECONDS", "PACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(int(options.one[0]), int(options.one[1]))))
        return
    folder = Path(tempfile.mkdtemp(prefix="supervisor-benchmark-"))
    found: dict[str, Any] = {"machine": {"cpus": os.cpu_count(), "python": platform.python_version()}, "rows": []}
    found["machine"]["load_before"] = os.getloadavg()[0]
    try:
        for database in ("sqlite", "postgresql"):
            found["rows"] += on(database, folder / database, options.seconds, options.repeats)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["machine"]["load_after"] = os.getloadavg()[0]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "supervisor.json").write_text(json.dumps(found, indent=2) + "\n")
    (RESULTS / "supervisor.md").write_text(table(found))
    print(table(found))


def on(database: str, folder: Path, seconds: int, repeats: int) -> list[dict[str, Any]]:
    folder.mkdir(parents=True)
    if database == "sqlite":
        return [measured(database, folder, {}, seconds, pace, repeats) for pace in PACES]
    import pgserver

    server = pgserver.get_server(  # type: ignore[attr-defined]
        folder / "server", cleanup_mode="stop"
    )
    try:
        env = {"DATABASE_URL": server.get_uri()}
        return [measured(database, folder, env, seconds, pace, repeats) for pace in PACES]
    finally:
        server.cleanup()


def measured(
    database: str, folder: Path, more: dict[str, str], seconds: int, pace: int, repeats: int
) -> dict[str, Any]:
    """Each repeat in a process of its own, because Django reads its settings once."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    env = {**kept, "DATA_PATH": str(folder / "data"), "DJANGO_SETTINGS_MODULE": "project.settings", **more}
    env["TUNELOOP_EXTRA_RECIPES"] = "project.runner.tests.recipes"
    command = [sys.executable, __file__, "--one", str(seconds), str(pace)]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    percents = [100 * run["cpu"] / run["wall"] for run in runs]
    return {
        "database": database,
        "pace": pace,
        "runs": runs,
        "median": statistics.median(percents),
        "most": max(percents),
    }


def one(seconds: int, pace: int) -> dict[str, float]:
    sys.path.insert(0, str(ROOT))
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from project.jobs import slots
    from project.jobs.actions import jobs
    from project.jobs.claim import claim
    from project.jobs.models import Queue
    from project.jobs.supervisor import Supervisor
    from project.kernel.access import Actor
    from project.kernel.models import Workspace
    from project.kernel.processes import settle

    workspace, _ = Workspace.objects.get_or_create(name="Benchmark", slug="benchmark")
    params = {"steps": seconds * pace, "pause": 1 / pace}
    by = Actor.system("benchmark", workspace)
    job = jobs.launch("count", params, workspace=workspace, by=by, title="count")
    slots.ensure("here", Queue.CPU)
    taken = claim(Queue.CPU, host="here", owner="benchmark")
    assert taken is not None
    settle()  # as a worker does
    cpu, wall = time.thread_time(), time.monotonic()
    Supervisor(taken).run()
    cpu, wall = time.thread_time() - cpu, time.monotonic() - wall
    job.refresh_from_db()
    assert job.state == "succeeded", job.failure_message
    return {"cpu": cpu, "wall": wall}


def table(found: dict[str, Any]) -> str:
    machine = found["machine"]
    rows = [
        "# What supervising a job costs\n",
        f"`python benchmarks/supervisor.py` on {machine['cpus']} CPUs, Python {machine['python']}; load average "
        f"{machine['load_before']:.1f} before and {machine['load_after']:.1f} after. CPU of the supervisor's thread in "
        "percent of the job's wall time.\n",
        "| database | steps per second | jobs | seconds each | median | most | target |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['database']} | {row['pace']} | {len(row['runs'])} | {row['runs'][0]['wall']:.0f} "
        f"| {row['median']:.2f} % | {row['most']:.2f} % | < {TARGET:.0f} % |"
        for row in found["rows"]
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
