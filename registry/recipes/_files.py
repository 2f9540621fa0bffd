"""Which files make a model, copying them, and turning what came into plain safetensors."""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from project.contracts.runs import UserError
from project.modeling import weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Dtype = Literal["auto", "bfloat16", "float32"]
WANTED = (
    "*.safetensors", "*.safetensors.index.json",
    "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "chat_template.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip
_CHUNK = 4 * 1024 * 1024


def is_wanted(name: str) -> bool:
    """Is this a file of a model's top folder that we keep?"""
    return any(fnmatch(name, pattern) for pattern in WANTED)


def copy_model(source: Path, target: Path, *, tick: Callable[[int, int], None]) -> list[str]:
    """Copy the wanted files of `source`; `tick(done, total)` is told the bytes. Returns the names of files left out.

    Raises UserError when `source` holds anything that is refused (project.modeling.weights), before a byte is copied.
    """
    weights.check_folder(source)
    files = sorted(path for path in source.iterdir() if path.is_file())
    kept = [path for path in files if is_wanted(path.name)]
    total, done = sum(path.stat().st_size for path in kept), 0
    for path in kept:
        with path.open("rb") as reader, (target / path.name).open("wb") as writer:
            while chunk := reader.read(_CHUNK):
                writer.write(chunk)
                done += len(chunk)
                tick(done, total)
    return [path.name for path in files if path not in kept]


def convert_gguf(gguf: Path, target: Path, *, dtype: Dtype, tick: Callable[[int, int], None]) -> None:
    """Write a GGUF file's model and tokenizer as safetensors, dequantised. Raises UserError.

    Needs memory for the whole model; `tick(done, total)` counts tokenizer, weights and writing.
    https://huggingface.co/docs/transformers/gguf: without `dequantize` the model could not be saved.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    number = torch.float32 if dtype == "float32" else torch.bfloat16
    tick(0, 3)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, local_files_only=True)
        tick(1, 3)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=number,
            local_files_only=True,
        )
    except (ValueError, KeyError, OSError, IndexError, NotImplementedError) as error:
        raise UserError(f"{gguf.name} can't be read as a GGUF model: {error}", field="source") from error
    tick(2, 3)
    model.config.use_cache = True
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)  # transformers writes weights readable by their owner only
    tick(3, 3)


def cast(folder: Path, dtype: Literal["bfloat16", "float32"]) -> None:
    """Rewrite the floating-point tensors of every safetensors file in `folder` as `dtype`, one file at a time."""
    import torch
    from safetensors.torch import load_file, save_file

    number = getattr(torch, dtype)
    size = 0
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {
            name: tensor.to(number) if tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
        size += sum(tensor.nbytes for tensor in tensors.values())
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
        partial.replace(path)
    for index in folder.glob("*.safetensors.index.json"):
        _edit(index, lambda content: content.setdefault("metadata", {}).update(total_size=size))
    if (folder / "config.json").is_file():
        _edit(folder / "config.json", lambda content: (content.pop("torch_dtype", None), content.update(dtype=dtype)))


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def require_space(folder: Path, size: int) -> None:
    """Raise OSError ENOSPC if `size` bytes do not fit beside `folder`: better now than after an hour's download."""
    import errno

    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, f"the model needs {size:,} bytes, the disk has {free:,} left")
