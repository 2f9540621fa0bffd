"""Metrics at scale: how fast points become rows, and how soon a chart of a million of them opens; beside MLflow.

    python benchmarks/metrics.py [--points 1000000] [--mlflow-points 50000]

Starts its own PostgreSQL and its own MLflow server (in a virtual environment below var/benchmarks), on loopback only.
Writes benchmarks/results/metrics.md and metrics.json. Ours is measured from lines of events.jsonl to committed rows
with roll-ups; MLflow's from `log_batch` of 1,000 numbers, the documented maximum, through its server to SQLite.
"""

import argparse
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
VENV = ROOT / "var" / "benchmarks" / "mlflow"
REPEATS = 9
PX = 800

CLIENT = """
import json, statistics, sys, time, urllib.parse, urllib.request
import mlflow
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
url, points, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = MlflowClient(url)
run = client.create_run(client.create_experiment("benchmark")).info.run_id
rates = []
for begin in range(0, points, 1000):
    batch = [Metric("loss", step * 0.001, 1700000000000 + step, step) for step in range(begin, begin + 1000)]
    started = time.perf_counter()
    client.log_batch(run, metrics=batch)
    rates.append(1000 / (time.perf_counter() - started))
def timed(call):
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return {"first_ms": 1000 * times[0], "median_ms": 1000 * statistics.median(times)}
query = urllib.parse.urlencode({"run_ids": run, "metric_key": "loss", "max_results": 320})
page = url + "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?" + query
print(json.dumps({
    "version": mlflow.__version__, "points": points, "points_per_second": statistics.median(rates),
    "chart": timed(lambda: urllib.request.urlopen(page).read()),
    "history": timed(lambda: client.get_metric_history(run, "loss")),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--mlflow-points", type=int, default=50_000)
    parser.add_argument("--ours", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(options.ours, options.points)))
        return
    folder = Path(tempfile.mkdtemp(prefix="metrics-benchmark-"))
    load = os.getloadavg()
    try:
        found = {
            "machine": {
                "cpus": os.cpu_count(),
                "processor": platform.processor() or platform.machine(),
                "python": platform.python_version(),
                "load_before": load[0],
                "load_after": 0.0,
            },
            "points": options.points,
            "postgresql": on_postgres(folder / "postgres", options.points),
            "sqlite": apart(folder / "sqlite", options.points, {}),
            "mlflow": beside(folder / "mlflow", options.mlflow_points),
        }
        found["machine"]["load_after"] = os.getloadavg()[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
    (RESULTS / "metrics.md").write_text(table(found))
    print(table(found))


def on_postgres(folder: Path, points: int) -> dict[str, Any]:
    import pgserver

    folder.mkdir(parents=True)
    server = pgserver.get_server(  # type: ignore[attr-defined]
        folder / "data", cleanup_mode="stop"
    )
    try:
        return apart(folder, points, {"DATABASE_URL": server.get_uri()})
    finally:
        server.cleanup()


def apart(folder: Path, points: int, environment: dict[str, str]) -> dict[str, Any]:
    """Ours in a process of its own, because Django reads its settings once."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    env = {**kept, "DATA_PATH": str(folder / "ours"), "DJANGO_SETTINGS_MODULE": "project.settings", **environment}
    command = [sys.executable, __file__, "--ours", str(folder), "--points", str(points)]
    done = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def ours(folder: Path, points: int) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from project.jobs import charts
    from project.jobs.ingest import Ingest
    from project.jobs.models import Job, Metric
    from project.jobs.ownership import Ownership
    from project.jobs.reading import EventReader
    from project.kernel.models import Workspace
    from project.kernel.processes import settle

    call_command("migrate", verbosity=0)
    workspace = Workspace.objects.create(name="Benchmark", slug="benchmark")
    job = Job.objects.create(
        workspace=workspace, recipe="b", title="b", queue="cpu", state="running", attempt=1, lease_owner="b"
    )
    chance = random.Random(1)
    spikes = {chance.randrange(points): 100.0 + number for number in range(20)}
    path = folder / "events.jsonl"
    with path.open("w") as file:
        for step in range(points):
            value = spikes.get(step, round(chance.random(), 6))
            file.write(f'{{"type":"metrics","at":{1.7e9 + step / 100},"step":{step},"values":{{"loss":{value}}}}}\n')
    settle()  # as a worker does
    reader, ingest = EventReader(path), Ingest(Ownership(job.pk, 1, "b"))
    rates, begun, cpu = [], time.perf_counter(), time.process_time()
    while True:
        started = time.perf_counter()
        lines = reader.read()
        if not lines:
            break
        ingest.take(lines)
        ingest.flush()
        rates.append(len(lines) / (time.perf_counter() - started))
    whole, cpu = time.perf_counter() - begun, time.process_time() - cpu
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    job.refresh_from_db()

    def chart() -> charts.Series:
        return charts.series(job, ["loss"], px=PX)["loss"]

    def cold() -> charts.Series:
        connection.close()
        return chart()

    drawn = chart()
    shown = dict(zip(drawn.steps, drawn.values, strict=True))
    assert all(shown.get(step) == value for step, value in spikes.items()), "a spike is missing"
    assert Metric.objects.filter(job=job).count() == points == drawn.count
    return {
        "database": connection.vendor,
        "points_per_second": statistics.median(rates),
        "points_per_second_overall": points / whole,
        "points_per_cpu_second": points / cpu,
        "chart": {"new_connection_ms": timed(cold), "median_ms": timed(chart)},
        "keys_ms": timed(lambda: charts.keys_of(job)),
        "drawn": len(drawn.steps),
    }


def timed(call: Callable[[], object]) -> float:
    """Median of several, in milliseconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def beside(folder: Path, points: int) -> dict[str, Any]:
    """MLflow's client against MLflow's server."""
    folder.mkdir(parents=True)
    if not (VENV / "bin" / "mlflow").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(VENV / "bin" / "pip"), "install", "-q", "mlflow"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_TRACKING_URI": ""}
    command = [str(VENV / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/store.db", "--default-artifact-root", str(folder / "files")]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(port, server, folder / "server.log")
        client = [str(VENV / "bin" / "python"), "-c", CLIENT, f"http://127.0.0.1:{port}", str(points), str(REPEATS)]
        done = subprocess.run(client, env=env, stdout=subprocess.PIPE, check=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


def wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            raise SystemExit(f"MLflow's server did not start:\n{log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("MLflow's server did not start within two minutes.")


def table(found: dict[str, Any]) -> str:
    mlflow, machine = found["mlflow"], found["machine"]
    rows = [
        "# Metrics at scale\n",
        f"{machine['cpus']} CPUs ({machine['processor']}), Python {machine['python']}; load average "
        f"{machine['load_before']:.1f} before and {machine['load_after']:.1f} after, so other work may have shared the "
        f"machine. Ours: {found['points']:,} points. MLflow {mlflow['version']}: {mlflow['points']:,} points.\n",
        "| | points/s, median of batches | points/s, whole run | points per CPU second of the writer "
        f"| chart, {PX} px, median of {REPEATS} | on a new connection | names of all series |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("postgresql", "sqlite"):
        one = found[name]
        rows.append(
            f"| Tuneloop, {name} | {one['points_per_second']:,.0f} | {one['points_per_second_overall']:,.0f} "
            f"| {one['points_per_cpu_second']:,.0f} | {one['chart']['median_ms']:.1f} ms "
            f"| {one['chart']['new_connection_ms']:.1f} ms | {one['keys_ms']:.1f} ms |"
        )
    rows.append(
        f"| MLflow, SQLite store | {mlflow['points_per_second']:,.0f} | | | {mlflow['chart']['median_ms']:.1f} ms "
        f"(320 points, by HTTP) | | |"
    )
    rows.append(
        f"\nMLflow's complete history of its {mlflow['points']:,} points by `get_metric_history`: "
        f"{mlflow['history']['median_ms']:.0f} ms. Its chart is the request its page makes "
        "(`get-history-bulk-interval`), which includes HTTP; ours is the time from the database to the drawn points, "
        "without HTTP. Our ingest is in the supervisor's process, MLflow's goes by HTTP: that is how each is used."
    )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
