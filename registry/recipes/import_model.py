"""Bring a model in: find it, convert it to safetensors if need be, check it, and say what it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext, UserError
from project.modeling import loading
from registry import sources
from registry.adapters import describe_adapter, is_adapter
from registry.recipes import _check, _files

name = "import-model"
label = "Import a model"
eats: tuple[RowKind, ...] = ()
needs = "cpu"
network = True  # for hub: sources
secrets = ("HUGGINGFACE_TOKEN",)


class Params(BaseModel):
    """What to import. A `dir:` source comes as the input `folder`, an adapter's base model as the input `base`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="pip:PACKAGE, dir:NAME or hub:org/name@revision")
    name: str = Field(default="", description="the model whose next version this becomes")
    base: str = Field(default="", description="id of the version that an adapter belongs to")
    dtype: _files.Dtype = Field(
        default="auto", description="number format to store; auto: as it is, and bfloat16 for a GGUF file"
    )

    @field_validator("source")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            return str(sources.parse(value))
        except UserError as error:
            raise ValueError(str(error)) from None


def run(params: Params, ctx: RunContext) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = sources.parse(params.source)
    folder, revision = _find(source, ctx)
    ctx.check_stop()
    _take(folder, params, ctx)
    ctx.check_stop()
    kind, facts = _examine(ctx)
    ctx.done(artifact=True, kind=kind, facts=facts, source=str(source), revision=revision)


def _find(source: sources.Source, ctx: RunContext) -> tuple[Path, str]:
    """The folder with the model's files, and which revision of the source it is."""
    match source.kind:
        case "dir":
            return ctx.input("folder"), ""
        case "pip":
            from importlib.metadata import PackageNotFoundError, version

            folder = sources.package_folder(source.name)
            try:
                return folder, version(source.name)
            except PackageNotFoundError:  # a module on the path that no installer knows
                return folder, ""
        case "hub":
            from registry.recipes._hub import download

            target = ctx.folder / "tmp" / "hub"
            target.mkdir(parents=True, exist_ok=True)
            return target, download(source, target, tick=_ticker(ctx, "download"), check_stop=ctx.check_stop)


def _take(folder: Path, params: Params, ctx: RunContext) -> None:
    """Fill the artifact folder with safetensors, config and tokenizer."""
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs and not any(folder.glob("*.safetensors")):
        if len(ggufs) > 1:
            names = ", ".join(path.name for path in ggufs[:5])
            raise UserError(f"The source has several GGUF files ({names}); leave one.", field="source")
        ctx.log(f"Converting {ggufs[0].name} to safetensors")
        _files.convert_gguf(ggufs[0], ctx.artifact, dtype=params.dtype, tick=_ticker(ctx, "convert", unit="part"))
        return
    left_out = _files.copy_model(folder, ctx.artifact, tick=_ticker(ctx, "copy"))
    if left_out:
        ctx.log(f"Left out, because they belong to no model: {', '.join(left_out[:20])}")
    if params.dtype != "auto":
        _files.cast(ctx.artifact, params.dtype)


def _examine(ctx: RunContext) -> tuple[str, dict[str, Any]]:
    """Check what is in the artifact folder and describe it."""
    ctx.progress(0, 1, unit="model", phase="check")
    if is_adapter(ctx.artifact):
        if "base" not in ctx.spec.inputs:
            raise UserError("This is an adapter.", hint="Name the base model it was trained on.", field="base")
        _check.adapter(ctx.artifact, ctx.input("base"))
        kind, facts = "adapter", describe_adapter(ctx.artifact)
    else:
        if "base" in ctx.spec.inputs:
            raise UserError("This is a full model, which has no base.", hint="Leave the base out.", field="base")
        for warning in _check.full_model(ctx.artifact):
            ctx.log(warning, level="warning")
        kind, facts = "full", loading.describe(ctx.artifact).model_dump()
    ctx.progress(1, 1, unit="model", phase="check")
    return kind, facts


def _ticker(ctx: RunContext, phase: str, unit: str = "byte") -> Callable[[int, int], None]:
    def tick(done: int, total: int) -> None:
        ctx.check_stop()
        ctx.progress(done, total, unit=unit, phase=phase)

    return tick
