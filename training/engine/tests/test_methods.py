"""Every method keeps the same contract: it learns, is kept, comes back bit by bit, answers, and merges if it says."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from project.contracts.events import FailureClass
from project.contracts.runs import UserError
from project.modeling.data import read_rows
from project.modeling.generate import generate_batch
from project.modeling.loading import load_adapter, load_base, load_tokenizer
from project.modeling.render import Rendered, render_row
from project.modeling.tiny import make_tiny_model
from registry.recipes import _check
from registry.serving.engine.model import check_adapter
from training.engine.components.forward import Forward
from training.engine.components.rows import IGNORED, RenderedRows, collate, group
from training.engine.components.saving import load_weights, save_weights
from training.engine.methods_registry import METHODS, TARGETS, MethodSettings, in_order, served
from training.engine.recipes.sft import SftParams, remedies, smaller

STEPS = 12
QUICK = {"max_steps": STEPS, "batch_size": 4, "max_seq_length": 128, "warmup_ratio": 0, "checkpoint_every": 6}


def settings(name: str, **values: Any) -> MethodSettings:
    return METHODS.get(name).Settings.model_validate({"type": name, **values})


def cases() -> Iterator[Any]:
    """Every variant of every method; those that take long or that few people choose, in the full suite."""
    for method in in_order():
        for number, (label, values) in enumerate(method.variants.items()):
            marks = () if method.prominent and number == 0 else (pytest.mark.full,)
            yield pytest.param(settings(method.name, **values), id=label, marks=marks)


def loaded(chosen: MethodSettings, base: Path, folder: Path) -> Any:
    """What somebody gets who was given the result, and for quantised training the same quantised base."""
    if not chosen.is_adapter:
        return load_base(folder)
    return load_adapter(load_base(base, bits=chosen.quantised_bits), folder, "default")


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -len(ids) :]


@pytest.mark.parametrize("chosen", cases())
def test_a_method_learns_is_kept_answers_and_merges(run, base: Path, data: Path, chosen: MethodSettings) -> None:
    rate = min(2e-3 * chosen.rate, 0.2)
    ran = run("sft", {**QUICK, "method": chosen.model_dump(), "learning_rate": rate})
    losses = list(ran.curve("loss").values())
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3, losses

    torch.manual_seed(42)  # as the run began
    trained = chosen.build(base, device="cpu", number="float32", total_steps=STEPS).eval()
    load_weights(trained, ran.checkpoint, chosen)
    kept = loaded(chosen, base, ran.artifact)
    tokenizer = load_tokenizer(base)
    prompts = [render_row(tokenizer, row).ids[:length] for row, length in zip(read_rows(data), (14, 9), strict=False)]
    for ids in prompts:
        found, expected = logits(kept, ids), logits(trained, ids)
        if getattr(chosen, "init", "") == "pissa" or chosen.type == "adalora":
            # PiSSA is kept as another sum of the same parts, AdaLoRA without the ranks that are zero
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(found, expected)
        assert not torch.allclose(found, logits(load_base(base), ids), atol=1e-3), "it changed nothing"

    if chosen.quantised_bits is None:  # whose numbers depend on what they are multiplied with
        together = [answer.ids for answer in generate_batch(kept, tokenizer, prompts, max_new_tokens=8)]
        assert together == [greedily(kept, tokenizer, ids, 8) for ids in prompts]

    if chosen.is_adapter:
        assert check_adapter(ran.artifact), "the serving engine takes it"
        _check.adapter(ran.artifact, base)  # and so does an import
    if chosen.is_adapter and chosen.quantised_bits is None:
        if not chosen.merges:
            assert not hasattr(kept.base_model, "merge_and_unload")
            return
        expected = [logits(kept, ids) for ids in prompts]
        merged = kept.merge_and_unload()
        for ids, wanted in zip(prompts, expected, strict=True):
            assert (logits(merged, ids) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_prefix_begins_as_what_the_model_makes_of_words(
    base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers as if those words stood before the row; so a pretrained model is hardly disturbed."""
    words = [30, 31, 32, 33, 34]
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([words]))
    model = settings("prefix", num_virtual_tokens=5).build(base, device="cpu", number="float32", total_steps=1).eval()
    ids = render_row(load_tokenizer(base), next(iter(read_rows(data)))).ids
    expected = logits(load_base(base), words + ids)[len(words) :]
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["ia3", "prefix", "prompt", "p-tuning"])
def test_what_is_evaluated_is_what_was_trained(run, data: Path, method: str) -> None:
    """The evaluation loads the adapter anew, and finds the loss that training found in the end."""
    rate = 2e-3 * METHODS.get(method).Settings.rate
    ran = run("sft", {**QUICK, "method": {"type": method}, "learning_rate": min(rate, 0.2)}, validation=data)
    asked = {"metrics": ["perplexity", "exact_match"], "max_new_tokens": 8, "precision": "fp32"}
    scores = run("evaluate", asked, adapter=ran.artifact).result["scores"]
    assert math.log(scores["perplexity"]["value"]) == pytest.approx(ran.result["eval_loss"], rel=1e-4)
    plain = run("evaluate", asked).result["scores"]
    assert plain["perplexity"]["value"] > scores["perplexity"]["value"] * 1.2


def greedily(model: Any, tokenizer: Any, ids: list[int], count: int) -> list[int]:
    """Answers without any cache, batch or padding, from the model's own forward."""
    written: list[int] = []
    while len(written) < count and tokenizer.eos_token_id not in written:
        written.append(int(logits(model, ids + written)[-1].argmax()))
    return written


@pytest.mark.parametrize("chosen", cases())
def test_rows_of_a_batch_learn_as_each_would_alone(base: Path, data: Path, chosen: MethodSettings) -> None:
    """Against the model's own forward on each row by itself, loss and gradients: nothing leaks, nothing is left out."""
    torch.manual_seed(1)
    model = stirred(chosen.build(base, device="cpu", number="float32", total_steps=STEPS))
    rows = [render_row(load_tokenizer(base), row) for row in list(read_rows(data))[:2]]
    rows[1] = Rendered(rows[1].ids[:-2], rows[1].mask[:-2])  # of another length
    expected = sum((plain_loss(model, row) for row in rows), torch.zeros(()))
    expected.backward()
    wanted = gradients(model)
    road = Forward.choose(model, [row.ids for row in rows])
    loss = road.summed_loss(model, collate(group(RenderedRows(rows), capacity=None, seed=0)))
    loss.backward()
    found = gradients(model)
    close = {"rel": 2e-2} if chosen.quantised_bits == 8 else {"rel": 1e-5}
    assert float(loss) == pytest.approx(float(expected), **close)
    assert found.keys() == wanted.keys() and found
    if chosen.quantised_bits != 8:  # its activations are rounded with those beside them
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=2e-4, msg=name)
    assert road.flattened


def stirred(model: Any) -> Any:
    """Adapters begin with zeros that hide half of their gradients."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02)
    return model


def plain_loss(model: Any, row: Rendered) -> torch.Tensor:
    labels = [
        token if learned and i else IGNORED for i, (token, learned) in enumerate(zip(row.ids, row.mask, strict=True))
    ]
    whole = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, -len(row.ids) :]
    return torch.nn.functional.cross_entropy(whole[:-1].float(), torch.tensor(labels[1:]), reduction="sum")


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    ("method", "switch"),
    [(name, "packing") for name in ("prefix", "prompt", "p-tuning")] + [("prefix", "gradient_checkpointing")],
)
def test_what_can_not_work_is_refused_by_name_before_anything_runs(method: str, switch: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SftParams.model_validate({"method": {"type": method}, switch: True})
    [error] = caught.value.errors()
    assert error["loc"] == (switch,) and f"can't be combined with {method}" in error["msg"]
    assert SftParams.model_validate({"method": {"type": method}, switch: False})
    assert SftParams.model_validate({"method": {"type": "ia3"}, switch: True})


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"bits": 4, "init": "pissa"}, {"init": "pissa", "dora": True}])
def test_options_that_exclude_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings("lora", **wrong)


def test_out_of_memory_is_never_healed_into_something_impossible() -> None:
    params = SftParams.model_validate({"method": {"type": "prefix"}, "batch_size": 2})
    less = smaller(params)
    assert less is not None and less.batch_size == 1
    assert smaller(less) is None
    offered = [remedy.key for remedy in remedies(less, FailureClass.DEVICE_MEMORY, "")]
    assert "smaller-batch" not in offered and "shorter-sequences" in offered
    lora = smaller(SftParams(batch_size=1))
    assert lora is not None and lora.gradient_checkpointing


def test_a_learned_prompt_takes_room_in_the_context(run) -> None:
    with pytest.raises(UserError, match="more than the model's context of 512") as caught:
        run("sft", {"method": {"type": "prompt", "num_virtual_tokens": 20}, "max_seq_length": 500})
    assert caught.value.field == "max_seq_length" and "492" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "9a3bcc536fd5639c41abf76f88f3dbdf6b5540ef2d8d05b55e72425fce4b91f2"),
        ({"method": {"type": "full"}}, "8ea7a1ee960a243faa732de4818a1d10b11d9247bcd1cd39f57b660317237a13"),
        (
            {
                "method": {"type": "lora", "r": 8, "alpha": 16, "dropout": 0, "target_modules": ["q_proj", "v_proj"],
                           "bits": None},
                "learning_rate": 1e-3,
                "packing": True,
            },
            "fed23af4270142be2eba74675e446f558295985ad14fd2765f1bed1e39d42899",
        ),
    ],
)  # fmt: skip
def test_runs_from_before_there_were_options_can_still_be_resumed(changes: dict[str, Any], digest: str) -> None:
    """Their checkpoints carry these digests, computed by the code of that time."""
    from training.engine.finetuning import _plan

    assert _plan(SftParams.model_validate(changes), 10, "d").config_digest == digest


def test_an_option_makes_another_run() -> None:
    from training.engine.finetuning import _plan

    digests = {
        _plan(SftParams.model_validate({"method": {"type": "lora", **values}}), 10, "d").config_digest
        for values in METHODS.get("lora").variants.values()
    }
    assert len(digests) == len(METHODS.get("lora").variants)


@pytest.mark.parametrize("method", ["prompt", "prefix", "adalora", "ia3"])
def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path, method: str) -> None:
    from transformers import AutoModelForCausalLM

    chosen = settings(method)
    save_weights(chosen.build(base, device="cpu", number="float32", total_steps=1), tmp_path / "adapter", chosen)
    wide = load_base(make_tiny_model(tmp_path / "base")).config
    wide.hidden_size, wide.intermediate_size, wide.num_key_value_heads = 256, 384, 4
    other = AutoModelForCausalLM.from_config(wide)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="made for another base model"):
        _check.adapter(tmp_path / "adapter", tmp_path / "other")
    with pytest.raises(UserError, match="made for another base model"):
        load_adapter(other, tmp_path / "adapter", "a")


def test_every_method_says_where_it_can_answer() -> None:
    assert not METHODS.broken()
    for method in in_order():
        for values in method.variants.values():
            chosen = settings(method.name, **values)
            ways = {target: served(chosen, target)[0] for target in TARGETS}
            assert ways["local"] == ("adapter" if chosen.is_adapter else "model")
            assert (ways["vllm"] == "no") == (chosen.is_adapter and not chosen.merges)
            assert {served(chosen, target)[1] != "" for target, way in ways.items() if way == "no"} <= {True}
    assert served(settings("prompt"), "vllm")[0] == "no"
    assert served(settings("lora"), "vllm")[0] == "adapter"
    assert served(settings("lora", dora=True), "vllm")[0] == "merged"


@pytest.mark.full
@pytest.mark.parametrize("method", ["ia3", "prompt", "p-tuning"])
def test_recomputing_activations_changes_no_number(run, method: str) -> None:
    wanted = {**QUICK, "max_steps": 4, "method": {"type": method}, "learning_rate": 1e-2}
    curves = [run("sft", {**wanted, "gradient_checkpointing": on}).curve("loss") for on in (True, False)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


PLUG_IN = '''
from typing import Any, ClassVar, Literal
from pydantic import Field
from training.engine.methods_registry import MethodSettings
name, label, prominent, order = "norms", "Norms only", False, 99
variants = {"Norms only": {}}
class Settings(MethodSettings):
    """Train the norms between layers."""
    rate: ClassVar[float] = 7.0
    refuses: ClassVar[dict[str, str]] = {"packing": "it says so"}
    type: Literal["norms"] = "norms"
    strength: float = Field(1.0, gt=0, description="How much.")
'''


def test_one_new_file_adds_a_method(tmp_path: Path) -> None:
    """Recipe, job file and learning rate know it at once, without a line elsewhere."""
    package = tmp_path / "mine" / "methods"
    package.mkdir(parents=True)
    (package / "norms.py").write_text(PLUG_IN)
    code = (
        "from training.engine.methods_registry import METHODS\n"
        "from training.engine.recipes.sft import SftParams\n"
        "assert not METHODS.broken(), METHODS.broken()\n"
        "params = SftParams.model_validate({'method': {'type': 'norms', 'strength': 2}})\n"
        "assert (params.method.strength, params.method.rate) == (2, 7)\n"
        "for wrong in ({'method': {'type': 'norms', 'strength': 0}}, {'method': {'type': 'norms'}, 'packing': True}):\n"
        "    try: SftParams.model_validate(wrong)\n"
        "    except ValueError: continue\n"
        "    raise SystemExit(f'{wrong} was taken')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{tmp_path}", "TUNELOOP_EXTRA_METHODS": "mine.methods"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_every_setting_of_every_method_says_what_it_does() -> None:
    for method in METHODS.all():
        assert method.Settings.__doc__ and method.Settings.model_fields["type"].default == method.name
        fields = method.Settings.model_fields.items()
        assert [name for name, field in fields if name != "type" and not field.description] == []
