"""The tiny model is a real one: it loads by the ordinary road, says every id it can utter, and a seed fixes it."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from project.modeling.tiny import make_tiny_model


def test_the_same_seed_gives_the_same_folder(tmp_path: Path) -> None:
    one, two, other = (make_tiny_model(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in two.iterdir()}
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_making_it_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    make_tiny_model(tmp_path / "model")
    assert torch.equal(torch.rand(1), expected)


def test_it_loads_and_every_id_has_a_text(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    text = "naïve €uro 漢字 🦊"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (
        tokenizer.chat_template
        and not AutoTokenizer.from_pretrained(make_tiny_model(tmp_path / "bare", template=False)).chat_template
    )
