"""A model with two adapters in the registry, as files and as rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from project.kernel import artifacts
from project.kernel.models import Workspace
from project.testing import Cast
from registry.models import Deployment, ModelVersion, RegisteredModel, VersionKind
from registry.serving.tests.cast import make_adapter


@dataclass(frozen=True)
class Shelf:
    """`base` is a full model, `red` and `blue` are adapters on it."""

    workspace: Workspace
    base: ModelVersion
    red: ModelVersion
    blue: ModelVersion

    def deploy(self, version: ModelVersion) -> Deployment:
        return Deployment.objects.create(workspace=self.workspace, version=version)


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return make_adapter(tiny_base, root / "red", seed=1), make_adapter(tiny_base, root / "blue", seed=2)


@pytest.fixture
def shelf(cast: Cast, tiny_base: Path, tiny_adapters: tuple[Path, Path]) -> Shelf:
    return make_shelf(cast.workspace, tiny_base, *tiny_adapters)


def make_shelf(workspace: Workspace, base: Path, red: Path, blue: Path) -> Shelf:
    register = _registrar(workspace)
    foundation = register("tiny", base, None)
    return Shelf(workspace, foundation, register("red", red, foundation), register("blue", blue, foundation))


def _registrar(workspace: Workspace) -> Callable[[str, Path, ModelVersion | None], ModelVersion]:
    def register(name: str, folder: Path, base: ModelVersion | None) -> ModelVersion:
        model = RegisteredModel.objects.create(workspace=workspace, name=name)
        return ModelVersion.objects.create(
            workspace=workspace,
            model=model,
            number=model.next_number(),
            kind=VersionKind.ADAPTER if base else VersionKind.FULL,
            base=base,
            artifact=artifacts.store_tree(folder, workspace=workspace, kind="model"),
            origin="import",
        )

    return register
