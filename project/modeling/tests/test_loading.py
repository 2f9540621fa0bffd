"""Models, tokenizers and adapters from folders: facts without torch, and clear refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from project.contracts.runs import UserError
from project.modeling.loading import describe, load_adapter, load_base, load_tokenizer


def save_adapter(base: Path, folder: Path, seed: int) -> Path:
    """An adapter that changes answers: both of its matrices are random."""
    torch.manual_seed(seed)
    model = get_peft_model(load_base(base), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(folder)
    return folder


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


def test_facts_come_from_headers(tiny: Path, bare: Path) -> None:
    facts = describe(tiny)
    model = load_base(tiny)
    assert facts.parameters == model.num_parameters()
    assert (facts.family, facts.layers, facts.hidden_size, facts.heads) == ("llama", 4, 128, 4)
    assert (facts.vocabulary, facts.context, facts.dtype) == (512, 512, "float32")
    assert facts.bytes == (tiny / "model.safetensors").stat().st_size
    assert facts.has_template and not describe(bare).has_template


def test_facts_need_no_torch(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from project.modeling.loading import describe;"
        f"describe(Path({str(tiny)!r})); sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_base_is_loaded_as_asked_with_its_cache_on(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_cache": False}))
    model = load_base(folder, dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training and model.config.use_cache


def test_adapters_share_a_base_and_keep_apart(tiny: Path, tmp_path: Path) -> None:
    one, two = (save_adapter(tiny, tmp_path / str(seed), seed) for seed in (1, 2))
    alone = {folder: logits(load_adapter(load_base(tiny), folder, "x"), [5, 6, 7]) for folder in (one, two)}
    model = load_adapter(load_adapter(load_base(tiny), one, "one"), two, "two")
    for name, folder in (("one", one), ("two", two)):
        model.set_adapter(name)
        assert torch.equal(logits(model, [5, 6, 7]), alone[folder])
    with model.disable_adapter():
        assert torch.equal(logits(model, [5, 6, 7]), logits(load_base(tiny), [5, 6, 7]))


def test_an_adapter_of_another_base_is_refused_and_leaves_the_base_whole(tiny: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaForCausalLM(
        LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    )
    get_peft_model(other, LoraConfig(r=4, target_modules="all-linear")).save_pretrained(tmp_path / "other")
    model = load_base(tiny)
    with pytest.raises(UserError, match="another base model"):
        load_adapter(model, tmp_path / "other", "x")
    assert torch.equal(logits(model, [5, 6]), logits(load_base(tiny), [5, 6]))
    with pytest.raises(UserError, match="not an adapter"):
        load_adapter(model, tiny, "x")


def test_folders_that_are_no_models_are_refused(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UserError):
        load_base(tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"config\.json"):
        describe(tmp_path)
    shutil.copy(tiny / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UserError, match="can't be loaded"):
        load_base(tmp_path)
