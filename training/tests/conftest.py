"""A base model and a data set of the cast's workspace, with real files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now

from datasets_app.models import Dataset, DatasetVersion
from project.contracts.chat import Message
from project.contracts.rows import (
    ChatRow,
    CompletionRow,
    DatasetDigest,
    PreferenceRow,
    PromptRow,
    Row,
    TextRow,
    UnpairedRow,
    row_hash,
)
from project.jobs import ending
from project.jobs.models import Job, JobState
from project.kernel import artifacts
from project.kernel.access import Actor
from project.kernel.models import Artifact
from project.modeling.data import write_rows
from project.modeling.loading import describe
from project.modeling.tiny import make_tiny_model
from project.testing import Cast
from registry.actions import models, versions
from registry.models import ModelVersion
from training.actions import evaluations
from training.engine.intervals import wilson
from training.models import Evaluation

MakeData = Callable[..., DatasetVersion]


def conversations(count: int, *, start: int = 0) -> list[Row]:
    """Rows that a tiny model can learn: it repeats a number."""
    return [
        ChatRow(messages=(Message(role="user", content=f"say {n}"), Message(role="assistant", content=f"{n} it is")))
        for n in range(start, start + count)
    ]


def completions(count: int) -> list[Row]:
    return [CompletionRow(prompt=f"say {n}", completion=f"{n}") for n in range(count)]


def prompts(count: int) -> list[Row]:
    return [PromptRow(prompt=(Message(role="user", content=f"say {n}"),)) for n in range(count)]


def pairs(count: int) -> list[Row]:
    return [
        PreferenceRow(
            prompt=(Message(role="user", content=f"say {n}"),),
            chosen=(Message(role="assistant", content=f"{n} it is"),),
            rejected=(Message(role="assistant", content="no"),),
        )
        for n in range(count)
    ]


def thumbs(count: int) -> list[Row]:
    return [
        UnpairedRow(
            prompt=(Message(role="user", content=f"say {n}"),),
            completion=(Message(role="assistant", content=f"{n} it is" if n % 2 else "no"),),
            label=bool(n % 2),
        )
        for n in range(count)
    ]


def texts(count: int) -> list[Row]:
    return [TextRow(text=f"{n} it is, and {n} it stays") for n in range(count)]


@pytest.fixture
def make_data(cast: Cast, tmp_path: Path) -> MakeData:
    """The next ready version of the data set `name`, with the rows' real digest."""

    def make(name: str = "sums", rows: Sequence[Row] | None = None, *, by: Actor | None = None) -> DatasetVersion:
        rows = list(conversations(20) if rows is None else rows)
        workspace = (by or cast.actor("owner")).workspace
        digest = DatasetDigest()
        for row in rows:
            digest.add(row_hash(row))
        dataset, _ = Dataset.objects.get_or_create(workspace=workspace, name=name)
        folder = write_rows(rows, tmp_path / f"rows-{name}-{dataset.last_number}")
        return DatasetVersion.objects.create(
            workspace=workspace,
            dataset=dataset,
            number=dataset.next_number(),
            state="ready",
            row_kind=rows[0].kind,
            rows=len(rows),
            digest=digest.hexdigest(),
            artifact=artifacts.store_tree(folder, workspace=workspace, kind="dataset"),
        )

    return make


@pytest.fixture
def data(make_data: MakeData) -> DatasetVersion:
    """`sums:1`: 20 conversations."""
    return make_data()


def register_base(folder: Path, name: str, by: Actor) -> ModelVersion:
    return versions.register(
        models.create(by.workspace, name, by=by),
        artifact=artifacts.store_tree(folder, workspace=by.workspace, kind="model"),
        kind="full",
        by=by,
        facts=describe(folder).model_dump(),
        origin="import",
    )


@pytest.fixture
def base(cast: Cast, tiny_base: Path) -> ModelVersion:
    """`tiny:1`, in production as imported base models are."""
    return register_base(tiny_base, "tiny", cast.actor("owner"))


@pytest.fixture
def speechless(cast: Cast, tmp_path: Path) -> ModelVersion:
    """`plain:1`: a base model without a chat template."""
    return register_base(make_tiny_model(tmp_path / "plain", template=False), "plain", cast.actor("owner"))


@pytest.fixture
def job_file(base: ModelVersion, data: DatasetVersion) -> dict[str, Any]:
    """The smallest job file there is."""
    return {"name": "adder", "model": {"base_model": "tiny"}, "data": {"dataset": "sums"}}


MakeEvaluation = Callable[..., Evaluation]


@pytest.fixture
def make_evaluation(
    cast: Cast, base: ModelVersion, data: DatasetVersion, tmp_path: Path, make_outcome: Callable[..., Job]
) -> MakeEvaluation:
    """An evaluation that has succeeded, with these (wanted, answered) pairs, measured by exact match."""

    def make(
        pairs: Sequence[tuple[str, str]], *, version: ModelVersion | None = None, data: DatasetVersion = data
    ) -> Evaluation:
        by = cast.actor("teammate")
        job = evaluations.launch(version or base, data, metrics=["exact_match"], by=by)
        folder = tmp_path / f"answers-{job.pk}"
        folder.mkdir()
        lines = [
            {
                "row": row,
                "prompt": f"question {row}",
                "answer": answered,
                "reference": wanted,
                "finish_reason": "stop",
                "scores": {"exact_match": float(answered == wanted)},
            }
            for row, (wanted, answered) in enumerate(pairs, start=1)
        ]
        (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        artifact = artifacts.store_tree(folder, workspace=by.workspace, kind="answers")
        right = sum(wanted == answered for wanted, answered in pairs)
        scores = {"exact_match": asdict(wilson(right, len(pairs)))}
        make_outcome(job, {"scores": scores, "rows": len(pairs)}, artifact)
        return Evaluation.objects.get(job=job)

    return make


@pytest.fixture
def make_outcome() -> Callable[..., Job]:
    """End a queued job as its supervisor would, without an engine."""

    def make(job: Job, result: dict[str, Any], artifact: Artifact) -> Job:
        Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING, attempt=1, started_at=Now())
        job.refresh_from_db()
        ending.succeed(job, result, artifact, exit=ending.Exit(code=0, gone=True))
        return job

    return make
