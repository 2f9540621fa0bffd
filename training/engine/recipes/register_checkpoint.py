"""The weights in a checkpoint, as the files of a version: what a training leaves in the end, from the middle of it."""

import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from project.contracts.rows import RowKind
from project.contracts.runs import RunContext, UserError

name = "register-checkpoint"
label = "Make a version of a checkpoint"
eats: tuple[RowKind, ...] = ()
needs: Literal["cpu"] = "cpu"

_CONFIGS = ("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json")


class Params(BaseModel):
    """The checkpoint is the one that the job starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0, description="of the checkpoint")
    model: str = Field(default="", description="the model whose next version this becomes; empty: the fine-tune's own")


def run(params: Params, ctx: RunContext) -> None:
    """Copy the weights, and for a whole model the tokenizer of its `base`. The supervisor has verified every byte."""
    from project.modeling.loading import load_tokenizer
    from project.modeling.weights import check_folder

    if ctx.spec.resume_from is None:
        raise UserError("The job names no checkpoint.", hint="Register one from the page of its fine-tune.")
    checkpoint = Path(ctx.spec.resume_from)
    files = [*sorted(checkpoint.glob("*.safetensors")), *(checkpoint / name for name in _CONFIGS)]
    files = [file for file in files if file.is_file()]
    if not any(file.suffix == ".safetensors" for file in files):
        raise UserError("The checkpoint holds no weights.")
    for done, file in enumerate(files, start=1):
        ctx.check_stop()
        shutil.copyfile(file, ctx.artifact / file.name)
        ctx.progress(done, len(files), unit="file", phase="copy")
    if not (ctx.artifact / "adapter_config.json").is_file():
        load_tokenizer(ctx.input("base")).save_pretrained(str(ctx.artifact))
    check_folder(ctx.artifact)
    ctx.done(artifact=True, step=params.step)
