"""What we refuse to load, and that the refusal names the file."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from project.contracts.runs import UserError
from project.modeling.weights import check_folder, read_header


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def rewrite(file: Path, change) -> None:
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    data = change(header) or raw[8 + length :]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_plain_model_passes(model: Path) -> None:
    check_folder(model)


def test_the_header_reader_agrees_with_safetensors(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(5, dtype=torch.bfloat16),
        "c": torch.zeros(()),
        "d": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found = {tensor.name: tensor.shape for tensor in read_header(tmp_path / "x.safetensors")}
    assert found == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "sub/training_args.bin", "state.PT", "weights.pkl", "model.ckpt"]
)
def test_pickled_files_are_refused_by_name(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"x")
    with pytest.raises(UserError, match=Path(name).name):
        check_folder(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused(model: Path, name: str) -> None:
    config = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(UserError, match=rf"{name}.*auto_map"):
        check_folder(model)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_truncated_weights_are_refused(model: Path, keep: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check_folder(model)


def test_bytes_after_the_data_are_refused(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as handle:
        handle.write(b"more")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check_folder(model)


def lie_about_shape(header) -> None:
    next(entry for name, entry in header.items() if name != "__metadata__")["shape"][0] += 1


def overlap(header) -> None:
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    entries[1]["data_offsets"] = entries[0]["data_offsets"]
    entries[1]["shape"], entries[1]["dtype"] = entries[0]["shape"], entries[0]["dtype"]


def negative(header) -> None:
    next(entry for name, entry in header.items() if name != "__metadata__")["data_offsets"] = [-4, 0]


def unknown_dtype(header) -> None:
    next(entry for name, entry in header.items() if name != "__metadata__")["dtype"] = "PICKLE"


def not_an_entry(header) -> None:
    header["extra"] = [1, 2]


@pytest.mark.parametrize("lie", [lie_about_shape, overlap, negative, unknown_dtype, not_an_entry])
def test_a_lying_header_is_refused(model: Path, lie) -> None:
    rewrite(model / "model.safetensors", lie)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check_folder(model)


@pytest.mark.parametrize(
    "raw", [struct.pack("<Q", 2**63), struct.pack("<Q", 4) + b"nope", struct.pack("<Q", 2) + b"[]"]
)
def test_a_header_that_is_none_is_refused(model: Path, raw: bytes) -> None:
    (model / "model.safetensors").write_bytes(raw)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check_folder(model)


def test_a_folder_without_weights_and_no_folder_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors weights"):
        check_folder(model)
    with pytest.raises(UserError, match="no model folder"):
        check_folder(tmp_path / "nowhere")


def test_a_link_out_of_the_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (model / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"notes\.txt"):
        check_folder(model)


def test_an_index_must_tell_the_truth(model: Path) -> None:
    index = model / "model.safetensors.index.json"
    names = [tensor.name for tensor in read_header(model / "model.safetensors")]
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    check_folder(model)
    for weight_map in (
        {names[0]: "gone.safetensors"},
        {"ghost": "model.safetensors"},
        {names[0]: "../x.safetensors"},
        3,
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=r"index\.json"):
            check_folder(model)
