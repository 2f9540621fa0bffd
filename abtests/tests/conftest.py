"""A model with two versions, and answers made up row by row, so that every count can be checked by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from abtests.models import ABTest, Answer, TestState, Variant
from abtests.traffic import AnswerRecord, record_answers
from project.kernel.models import Artifact, Workspace
from registry.models import Deployment, DeploymentState, ModelVersion, RegisteredModel, Stage, VersionKind

_numbers = count(1)


@dataclass(frozen=True)
class World:
    """A model `intents` whose version 1 is in production, version 2 in staging; both deployed and healthy."""

    workspace: Workspace
    model: RegisteredModel
    one: ModelVersion
    two: ModelVersion

    def deployment(self, version: ModelVersion) -> Deployment:
        return Deployment.objects.get(version=version, wanted=True)

    def answer(self, **values: Any) -> Answer:
        """One recorded answer of version 1 unless said otherwise."""
        number = next(_numbers)
        record = AnswerRecord(
            **{
                "id": f"chatcmpl-{number:06d}",
                "workspace_id": self.workspace.pk,
                "model_id": self.model.pk,
                "version_id": self.one.pk,
                "messages": [{"role": "user", "content": f"Question {number}"}],
                "text": f"Answer {number}",
                "unit_hash": f"unit-{number}",
                "latency_ms": 100.0,
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "finish_reason": "stop",
                **values,
            }
        )
        record_answers([record])
        return Answer.objects.get(pk=record.id)


def make_version(model: RegisteredModel, *, stage: Stage = Stage.DRAFT) -> ModelVersion:
    number = model.next_number()
    artifact = Artifact.objects.create(
        workspace=model.workspace, kind="model", key=f"test/{model.pk}/{number}", manifest=[], digest="0" * 64, size=0
    )
    return ModelVersion.objects.create(
        workspace=model.workspace,
        model=model,
        number=number,
        stage=stage,
        kind=VersionKind.FULL,
        artifact=artifact,
        origin="import",
    )


@pytest.fixture
def make_world(db: None) -> Callable[..., World]:
    def make(workspace: Workspace, name: str = "intents") -> World:
        model = RegisteredModel.objects.create(workspace=workspace, name=name)
        one = make_version(model, stage=Stage.PRODUCTION)
        two = make_version(model, stage=Stage.STAGING)
        for version in (one, two):
            Deployment.objects.create(workspace=workspace, version=version, state=DeploymentState.HEALTHY)
        return World(workspace=workspace, model=model, one=one, two=two)

    return make


@pytest.fixture
def world(cast: Any, make_world: Callable[..., World]) -> World:
    return make_world(cast.workspace)


@pytest.fixture
def make_test(db: None) -> Callable[..., ABTest]:
    """A test as a row, in any state, without touching the route: for counting."""

    def make(world: World, *, state: TestState = TestState.RUNNING, weights: tuple[int, int] = (50, 50)) -> ABTest:
        test = ABTest.objects.create(
            workspace=world.workspace, name=f"test {next(_numbers)}", model=world.model, state=state
        )
        for place, (version, weight) in enumerate(zip((world.one, world.two), weights, strict=True)):
            Variant.objects.create(
                test=test,
                key="ab"[place],
                position=place,
                version=version,
                weight=weight,
                deployment=world.deployment(version),
            )
        return test

    return make
