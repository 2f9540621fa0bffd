"""Models of the cast's workspace, with real files and real actions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from project.kernel import artifacts
from project.kernel.access import Actor
from project.testing import Cast
from registry.actions import models, scores, versions
from registry.models import ModelVersion, RegisteredModel

MakeVersion = Callable[..., ModelVersion]


@pytest.fixture
def make_version(cast: Cast, tmp_path: Path) -> MakeVersion:
    """A new version of the model `name`, full unless it has a `base`, with small files of its own."""

    def make(
        name: str = "intents", *, base: ModelVersion | None = None, scored: dict[str, Any] | None = None, **values: Any
    ) -> ModelVersion:
        by = values.pop("by", None) or cast.actor("owner")
        folder = tmp_path / f"files-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "weights").mkdir(exist_ok=True)
        (folder / "weights" / "model.safetensors").write_bytes(b"0" * 2000)
        model = RegisteredModel.objects.filter(workspace=by.workspace, name=name).first()
        version = versions.register(
            model or models.create(by.workspace, name, by=by),
            artifact=artifacts.store_tree(folder, workspace=by.workspace, kind="model"),
            kind="adapter" if base else "full",
            base=base,
            by=by,
            **values,
        )
        if scored:
            score(version, by, **scored)
        return version

    return make


def score(
    version: ModelVersion, by: Actor, *, digest: str = "d" * 64, **values: float | tuple[float, float, float]
) -> None:
    """Record metric=value or metric=(low, value, high) on 100 rows."""
    numbers = {}
    for metric, value in values.items():
        low, middle, high = value if isinstance(value, tuple) else (None, value, None)
        numbers[metric] = {"value": middle, "low": low, "high": high, "n": 100}
    scores.record(version, numbers, data_digest=digest, data_label="held-out:1", by=by)
