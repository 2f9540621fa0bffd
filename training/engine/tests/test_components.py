"""The fast road gives the numbers of the plain one: loss, gradients, attention, packs."""

import random
from array import array
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from project.contracts.rows import Row
from project.modeling.loading import load_base, load_tokenizer
from project.modeling.render import Rendered, render_row
from project.modeling.tiny import make_tiny_model
from training.engine.components.forward import Forward
from training.engine.components.loss import summed_nll
from training.engine.components.packing import pack
from training.engine.components.rows import IGNORED, RenderedRows, TokenRows, collate, group, split
from training.engine.methods.lora import Lora
from training.engine.splits import held_back
from training.engine.tests.conftest import lessons


def rendered(base: Path, rows: list[Row]) -> RenderedRows:
    tokenizer = load_tokenizer(base)
    return RenderedRows(render_row(tokenizer, row) for row in rows)


def adapted(base: Path, dropout: float = 0.0):
    """A model whose adapter does something: B is zero at first, and then A would get no gradient."""
    torch.manual_seed(1)
    model = Lora(r=4, alpha=8, dropout=dropout).build(base, device="cpu", number="float32", total_steps=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plain_loss(model, rows: RenderedRows) -> torch.Tensor:
    """What transformers computes for each row alone, summed over learned tokens."""
    total = torch.zeros(())
    for row in rows:
        labels = [token if learned else IGNORED for token, learned in zip(row.ids, row.mask, strict=True)]
        out = model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels]), use_cache=False)
        total = total + out.loss * sum(label != IGNORED for label in labels[1:])
    return total


@pytest.mark.parametrize("make", [adapted, lambda base: load_base(base).train()], ids=["lora", "full"])
@pytest.mark.parametrize(
    "road", [Forward(), Forward(row_attention=False), Forward(own_head=False), Forward(False, False, True)],
    ids=lambda road: road.describe(),
)  # fmt: skip
def test_every_road_gives_the_loss_and_gradients_of_single_rows(base: Path, make, road: Forward) -> None:
    rows = rendered(base, lessons(7))
    model = make(base)
    expected = plain_loss(model, rows)
    expected.backward()
    wanted = gradients(model)
    road.prepare(model)
    batch = collate(group(rows, capacity=128, seed=0))
    loss = road.summed_loss(model, batch)
    loss.backward()
    found = gradients(model)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert found.keys() == wanted.keys() and found
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=2e-5, msg=name)


def test_a_llama_takes_the_fastest_road_and_others_take_one_they_stand(base: Path, tmp_path: Path) -> None:
    ids = [row.ids for row in rendered(base, lessons(2))]
    assert Forward.choose(adapted(base), ids) == Forward()
    assert Forward.choose(adapted(base), ids[:1]) == Forward()

    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    capped = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=32, final_logit_softcapping=0.05, attn_logit_softcapping=None,
        )
    ).eval()  # fmt: skip
    road = Forward.choose(capped, ids)
    assert not road.own_head and road.flattened  # its head caps the logits, which a plain projection would not

    leaky = load_base(base)  # like an architecture whose rows see each other when they are laid end to end
    inner = leaky.model.forward
    leaky.model.forward = lambda *args, position_ids=None, row_lengths=None, **more: inner(*args, **more)
    single = Forward.choose(leaky, ids)
    assert not single.flattened
    rows = RenderedRows(Rendered(one, [0] * (len(one) - 3) + [1] * 3) for one in ids)
    batch = collate(group(rows, capacity=None, seed=0))
    assert float(single.summed_loss(leaky, batch)) == pytest.approx(float(plain_loss(load_base(base), rows)), rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_chunked_loss_is_cross_entropy(chunk: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(100, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True) if with_bias else None
    targets = torch.randint(50, (100,))
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    expected = cross_entropy(torch.nn.functional.linear(hidden, weight, bias), targets, reduction="sum")
    wanted = torch.autograd.grad(expected / 7, inputs)
    loss = summed_nll(hidden, weight, bias, targets, chunk)
    torch.testing.assert_close(loss, expected)
    for found, right in zip(torch.autograd.grad(loss / 7, inputs), wanted, strict=True):
        torch.testing.assert_close(found, right)
    with torch.no_grad():
        assert not summed_nll(hidden, weight, bias, targets, chunk).requires_grad
    assert float(summed_nll(hidden[:0], weight, bias, targets[:0])) == 0


def test_packs_are_full_whole_and_the_same_each_time() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(1, 100) for _ in range(500)]
    packs = pack(lengths, 128)
    assert sorted(i for one in packs for i in one) == list(range(500))
    used = [sum(lengths[i] for i in one) for one in packs]
    assert max(used) <= 128
    assert sum(used) / (128 * len(packs)) > 0.97
    assert pack(lengths, 128) == packs
    assert pack([], 8) == [] and pack([8], 8) == [[0]]
    with pytest.raises(ValueError, match="row 1 has 9 tokens"):
        pack([1, 9], 8)


def test_a_batch_has_no_padding_and_positions_start_anew() -> None:
    batch = collate(
        group(RenderedRows([Rendered([5, 6, 7], [0, 1, 1]), Rendered([8, 9], [1, 1])]), capacity=None, seed=0)
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9]]  # a row's first token has nothing before it
    assert (batch["predict"].tolist(), batch["targets"].tolist()) == ([0, 1, 3], [6, 7, 9])


def test_a_split_is_fixed_by_its_seed_and_loses_nothing() -> None:
    def some(count: int) -> TokenRows:
        rows = RenderedRows(Rendered([i], [1]) for i in range(count))
        return TokenRows(rows=rows, numbers=array("q", range(1, count + 1)), read=count)

    train, held = split(some(50), 0.1, 3)
    assert len(held) == 5 and sorted([*train.ids, *held.ids]) == list(range(50))
    assert split(some(50), 0.1, 3) == (train, held) != split(some(50), 0.1, 4)
    assert split(some(50), 0.0, 3) == (some(50).rows, RenderedRows())
    assert [len(part) for part in split(some(2), 0.01, 3)] == [1, 1]
    assert [len(part) for part in split(some(1), 0.5, 3)] == [1, 0]
    assert {row.ids[0] + 1 for row in held} == held_back(50, 0.1, 3)


def test_rows_in_flat_arrays_are_the_rows() -> None:
    rows = [Rendered([7, 300, 70_000], [0, 1, 1]), Rendered([], []), Rendered([5], [1], dropped=9)]
    kept = RenderedRows(rows)
    assert list(kept) == rows and kept[-1] == rows[2] and list(kept[1:]) == rows[1:]
    assert list(kept.taken([2, 0])) == [rows[2], rows[0]]
    assert kept.lengths == [3, 0, 1] and kept == RenderedRows(rows) != RenderedRows(rows[:2])
    with pytest.raises(IndexError):
        kept[3]


def test_another_tiny_model_is_another_model(tmp_path: Path, base: Path) -> None:
    """The comparisons above mean something only if different weights give different losses."""
    rows = rendered(base, lessons(3))
    other = load_base(make_tiny_model(tmp_path / "other", seed=9))
    assert abs(float(plain_loss(other, rows)) - float(plain_loss(load_base(base), rows))) > 0.1
