"""What a folder of weights may contain. Nothing from a user is unpickled, and no code comes with a model."""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project.contracts.runs import UserError

# Formats that run code when they are opened, or that we can't check.
PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack", ".npy", ".npz"})
CONFIGS = frozenset(
    {"config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json", "processor_config.json"}
)
HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class UnsafeWeights(UserError):
    """A file that we refuse to load. The message names it."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file.name}: {why}", hint="Provide the model as plain safetensors files.", field="model")


def check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` holds only safetensors weights whose headers are true, and asks for no code.

    Refused are pickled weights, links that lead outside, `auto_map` in a config, truncated and lying safetensors
    headers, and an index that names missing shards or tensors.
    """
    if not folder.is_dir():
        raise UserError(f"There is no model folder at {folder.name}.", field="model")
    root = folder.resolve()
    weights: list[Path] = []
    for file in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        if not file.resolve().is_relative_to(root):
            raise UnsafeWeights(file, "is a link to a place outside the model's folder")
        if file.suffix.lower() in PICKLED:
            raise UnsafeWeights(file, "is in a format that can run code when it is opened, so it is refused")
        if file.name in CONFIGS:
            _check_config(file)
        if file.suffix == ".safetensors":
            read_header(file)
            weights.append(file)
    if not weights:
        raise UserError(
            f"The folder {folder.name} has no safetensors weights.",
            hint="Save the model with save_pretrained, which writes safetensors.",
            field="model",
        )
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        _check_index(index)


def tensors(folder: Path) -> Iterator[Tensor]:
    """Every tensor of the safetensors files right in `folder`, from their headers only."""
    for file in sorted(folder.glob("*.safetensors")):
        yield from read_header(file)


def read_header(file: Path) -> list[Tensor]:
    """The tensors that a safetensors file declares, checked against the file's size. Raises UnsafeWeights.

    Format: https://huggingface.co/docs/safetensors — 8 bytes length, JSON header, then the data without gap or overlap.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise UnsafeWeights(file, "is not a whole safetensors file (its header is cut off or too long)")
        raw = handle.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except ValueError as error:
        raise UnsafeWeights(file, f"has a header that is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise UnsafeWeights(file, "has a header that is not an object")
    header.pop("__metadata__", None)
    return _checked(file, header, size - 8 - length)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _checked(file: Path, header: dict[str, Any], available: int) -> list[Tensor]:
    found: list[tuple[int, int, Tensor]] = []
    for name, entry in header.items():
        try:
            dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        except (KeyError, TypeError, ValueError):
            raise UnsafeWeights(file, f"has a damaged entry for '{name}'") from None
        if not whole or dtype not in _BITS:
            raise UnsafeWeights(file, f"has a damaged entry for '{name}'")
        if end - begin != -(-math.prod(shape) * _BITS[dtype] // 8):
            raise UnsafeWeights(file, f"declares a size for '{name}' that is not the size of its shape")
        found.append((begin, end, Tensor(name, dtype, shape)))
    at = 0
    for begin, end, tensor in sorted(found, key=lambda item: (item[0], item[1])):
        if begin != at:
            raise UnsafeWeights(file, f"has a gap or an overlap before '{tensor.name}'")
        at = end
    if at != available:
        raise UnsafeWeights(file, f"holds {available} bytes of data where its header declares {at}")
    return [tensor for _, _, tensor in found]


def _check_config(file: Path) -> None:
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise UnsafeWeights(file, f"is not JSON ({error})") from None
    if isinstance(config, dict) and config.get("auto_map"):
        raise UnsafeWeights(file, "asks to run the model's own code (auto_map), which is refused")


def _check_index(index: Path) -> None:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        shards = {str(shard) for shard in weight_map.values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnsafeWeights(index, "is not a list of shards") from None
    known: dict[str, str] = {}
    for shard in sorted(shards):
        file = index.parent / shard
        if Path(shard).name != shard or not file.is_file():
            raise UnsafeWeights(index, f"names the shard '{shard}', which is not there")
        known |= {tensor.name: shard for tensor in read_header(file)}
    wrong = next((name for name, shard in weight_map.items() if known.get(name) != shard), None)
    if wrong is not None:
        raise UnsafeWeights(index, f"says that '{wrong}' is in '{weight_map[wrong]}', but it is not")
