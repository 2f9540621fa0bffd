"""Recipes that learn from judgements and from texts: their numbers, what they learn, and that they resume exactly."""

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from project.contracts.chat import Message
from project.contracts.rows import PreferenceRow, Row, TextRow, UnpairedRow
from project.contracts.runs import RunSpec, StopRequested, UserError
from project.modeling.data import write_rows
from project.modeling.loading import load_base, load_tokenizer
from project.modeling.render import render
from project.runner.context import Context
from training.engine.components import preferences
from training.engine.components.forward import Forward
from training.engine.components.loss import token_nll
from training.engine.components.objectives import Judgements, of_rows
from training.engine.components.readings import JUDGED, PAIRS, TEXTS
from training.engine.components.rows import TokenRows, collate, group, tokenise
from training.engine.tests.conftest import WORDS, Ran, go
from training.engine.tests.test_sft import same

LORA = {"type": "lora", "r": 8, "alpha": 16}


def said(role: str, text: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),)  # type: ignore[arg-type]


def pairs(count: int = 16) -> list[Row]:
    return [
        PreferenceRow(
            prompt=said("user", f"what is {WORDS[i % 8]} {i}?"),
            chosen=said("assistant", f"it is {WORDS[i % 8]}, surely"),
            rejected=said("assistant", f"no {WORDS[(i + 3) % 8]}"),
        )
        for i in range(count)
    ]


def thumbs(count: int = 32) -> list[Row]:
    return [
        UnpairedRow(
            prompt=said("user", f"what is {WORDS[i % 8]} {i}?"),
            completion=said("assistant", "yes, gladly" if i % 2 else "never ask"),
            label=bool(i % 2),
        )
        for i in range(count)
    ]


def texts(count: int = 16) -> list[Row]:
    return [TextRow(text=" ".join(WORDS[(i + k) % 8] for k in range(6 + 10 * (i % 5)))) for i in range(count)]


DATA: dict[str, Callable[[], list[Row]]] = {"dpo": pairs, "orpo": pairs, "kto": thumbs, "pretrain": texts}
FIGURES = {
    "dpo": ("reward_margin", "preference_accuracy", "rewards_chosen", "rewards_rejected"),
    "orpo": ("reward_margin", "preference_accuracy", "log_odds", "nll"),
    "kto": ("reward_margin", "rewards_wanted", "rewards_unwanted", "kl"),
    "pretrain": (),
}


@pytest.fixture
def read(base: Path, tmp_path: Path) -> Callable[..., TokenRows]:
    def reading(rows: list[Row], how: Any, max_length: int = 512) -> TokenRows:
        from project.contracts.rows import row_bytes

        folder = tmp_path / "reading"
        folder.mkdir(exist_ok=True)
        ctx = Context(folder, RunSpec(job="1", attempt=1, recipe="dpo", params={}))
        return tokenise((row_bytes(row).decode() for row in rows), load_tokenizer(base), max_length, ctx, how)

    return reading


# --- numbers


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_loss_of_each_token_is_cross_entropy_however_it_is_weighed(chunk: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(50, 16, requires_grad=True)
    weight = torch.randn(40, 16, requires_grad=True)
    bias = torch.randn(40, requires_grad=True) if with_bias else None
    targets, weights = torch.randint(40, (50,)), torch.randn(50)
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    plain = cross_entropy(linear(hidden, weight, bias), targets, reduction="none")
    wanted = torch.autograd.grad((plain * weights).sum(), inputs)
    found = token_nll(hidden, weight, bias, targets, chunk)
    torch.testing.assert_close(found, plain)
    for mine, right in zip(torch.autograd.grad((found * weights).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not token_nll(hidden, weight, bias, targets, chunk).requires_grad


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def test_losses_are_those_of_the_papers() -> None:
    generator = np.random.default_rng(5)
    c, r, rc, rr = (-generator.uniform(0.1, 9, size=20) for _ in range(4))
    tensors = [torch.tensor(one) for one in (c, r, rc, rr)]
    margin = 0.3 * ((c - rc) - (r - rr))
    loss, figures = preferences.dpo(*tensors, beta=0.3, label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(np.sum(-0.9 * np.log(sigmoid(margin)) - 0.1 * np.log(sigmoid(-margin)))))
    assert float(figures["reward_margin"]) == pytest.approx(float(margin.sum()))
    assert float(figures["preference_accuracy"]) == (margin > 0).sum()
    loss, _ = preferences.ipo(*tensors, beta=0.3)
    assert float(loss) == pytest.approx(float(np.sum((margin / 0.3 - 1 / 0.6) ** 2)))

    wanted = np.arange(20) % 3 == 0
    ratio, kl = c - rc, 0.7
    values = np.where(wanted, 1.5 * (1 - sigmoid(0.3 * (ratio - kl))), 0.5 * (1 - sigmoid(0.3 * (kl - ratio))))
    loss, figures = preferences.kto(
        *(tensors[0], tensors[2], torch.tensor(wanted), torch.tensor(kl)),
        beta=0.3, desirable_weight=1.5, undesirable_weight=0.5,
    )  # fmt: skip
    assert float(loss) == pytest.approx(float(values.sum()), rel=1e-6)
    assert float(figures["wanted"]) == wanted.sum()
    assert float(preferences.mismatch_kl(tensors[0], tensors[0] + 1)) == 0
    assert float(preferences.mismatch_kl(tensors[0] + 1, tensors[0])) == pytest.approx(1)

    loss, _ = preferences.bradley_terry(tensors[0], tensors[1], centre=0.01)
    assert float(loss) == pytest.approx(float(np.sum(-np.log(sigmoid(c - r)) + 0.01 * (c + r) ** 2)))


def test_the_odds_ratio_is_that_of_the_reference_implementation() -> None:
    from trl.experimental.orpo import ORPOTrainer

    torch.manual_seed(2)
    chosen, rejected = -torch.rand(30) * 5, -torch.rand(30) * 5
    theirs = ORPOTrainer.odds_ratio_loss(
        SimpleNamespace(beta=0.2, accelerator=SimpleNamespace(device="cpu")), chosen, rejected
    )
    loss, _ = preferences.orpo(chosen, rejected, -chosen, beta=0.2)
    assert float(loss) == pytest.approx(float((-chosen - theirs[0]).sum()), rel=1e-5)
    nearly_sure = torch.tensor([-1e-9], requires_grad=True)
    preferences.orpo(nearly_sure, torch.tensor([-3.0]), -nearly_sure, beta=0.1)[0].backward()
    assert nearly_sure.grad is not None and torch.isfinite(nearly_sure.grad).all()


@pytest.mark.parametrize(
    "road", [Forward(), Forward(own_head=False), Forward(False, False, True)], ids=lambda road: road.describe()
)
def test_what_is_said_of_each_row_is_what_the_model_says_of_it_alone(base: Path, read: Any, road: Forward) -> None:
    model = load_base(base)
    data = read(pairs(3), PAIRS)
    expected = []
    for row in data.rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        expected.append(sum(float(logits[i - 1, t]) for i, t in enumerate(row.ids) if row.mask[i]))
    road.prepare(model)
    batch = collate(group(data.rows, capacity=None, seed=0)[:])
    found, lengths = of_rows(road, model, batch)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert lengths.tolist() == [row.learned for row in data.rows]


def test_lessons_are_the_answers_of_their_rows(base: Path, read: Any) -> None:
    tokenizer = load_tokenizer(base)
    row = PreferenceRow(
        prompt=(*said("user", "a"), *said("assistant", "b"), *said("user", "c")),
        chosen=said("assistant", "good"),
        rejected=said("assistant", "bad"),
    )
    better, worse = read([row], PAIRS).rows
    for one, answer in ((better, "good"), (worse, "bad")):
        assert tokenizer.decode([t for t, m in zip(one.ids, one.mask, strict=True) if m]) == f"{answer}<|im_end|>"
        assert one.ids == render(tokenizer, [*row.prompt, *said("assistant", answer)]).ids
    judged = read(thumbs(4), JUDGED).rows
    assert judged.tags.tolist() == [0, 1, 0, 1] and judged.width == 1
    both = Judgements(0.1, 1, 1, 512).arranged(judged)
    assert both.tags == judged.tags and list(both)[::2] == list(judged)
    first, second = tokenizer.decode(both[1].ids), tokenizer.decode(judged[1].ids)
    assert "key 0" in first and first.endswith(second.partition("assistant")[2])
    for mixed, other in ((both[1], judged[1]), (both[7], judged[0])):  # of the other answer the same tokens count
        assert mixed.mask[-(len(other.ids) - other.mask.index(1)) :] == other.mask[other.mask.index(1) :]
    with pytest.raises(UserError, match="One row is not enough"):
        Judgements(0.1, 1, 1, 512).arranged(judged[:1])


def test_texts_are_learned_whole_in_pieces(base: Path, read: Any) -> None:
    tokenizer = load_tokenizer(base)
    long = " ".join(WORDS * 20)
    data = read([TextRow(text=long), TextRow(text=""), TextRow(text="key")], TEXTS, 16)
    whole = [*tokenizer(long).input_ids, tokenizer.eos_token_id]
    pieces = [row.ids for row, number in zip(data.rows, data.numbers, strict=True) if number == 1]
    assert [pieces[0][0], *(token for piece in pieces for token in piece[1:])] == whole
    assert all(len(piece) <= 16 for piece in pieces) and all(a[-1] == b[0] for a, b in itertools.pairwise(pieces))
    assert (data.read, data.truncated, data.unlearnable) == (3, 0, 1)
    assert data.learned == len(whole) - 1 + len(tokenizer("key").input_ids)


# --- what they learn


@pytest.mark.parametrize("recipe", DATA)
def test_a_recipe_learns_what_it_is_for_and_tells_its_figures(run: Any, tmp_path: Path, recipe: str) -> None:
    data = write_rows(DATA[recipe](), tmp_path / "rows")
    params = {"method": LORA, "max_steps": 40, "batch_size": 8, "learning_rate": 5e-3, "validation_split": 0.25}
    ran = run(recipe, {**params, "evaluate_every": 40}, data=data)
    losses = list(ran.curve("loss").values())
    assert losses[-1] < 0.7 * losses[0]
    for name in FIGURES[recipe]:
        assert len(ran.curve(name)) >= 30 and math.isfinite(ran.curve(f"eval_{name}")[40])
    if "reward_margin" in FIGURES[recipe]:
        margins = list(ran.curve("reward_margin").values())
        assert margins[-1] > margins[0] + 0.05
    if recipe == "dpo":
        assert losses[0] == pytest.approx(math.log(2), abs=1e-4) and margins[0] == pytest.approx(0, abs=1e-4)
        assert ran.curve("eval_preference_accuracy")[40] == 1
    assert {file.name for file in ran.artifact.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (ran.result["rows"], ran.result["validation_rows"]) == (
        (24, 8) if recipe == "kto" else (12, 4)
    ) or recipe == "pretrain"


@pytest.mark.parametrize("recipe", DATA)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(start: Any, run: Any, tmp_path: Path, recipe: str) -> None:
    """To the same weights and the same curves, also those of figures that were counted and not yet told."""
    data = write_rows(DATA[recipe](), tmp_path / "rows")
    params = {"max_steps": 8, "batch_size": 4, "learning_rate": 1e-3, "logging_steps": 3}
    params["method"] = {**LORA, "dropout": 0.1}
    whole = run(recipe, params, data=data)
    stopped: Ran = start(recipe, params, stop_at=("train", 4), data=data)
    with pytest.raises(StopRequested):
        go(stopped)
    rest = run(recipe, params, resume_from=stopped.checkpoint, data=data)
    assert same(whole.artifact, rest.artifact)
    for name in ("loss", *FIGURES[recipe]):
        assert {**stopped.curve(name), **rest.curve(name)} == whole.curve(name)


@pytest.mark.parametrize("method", ["prompt", "prefix", "ia3"])
def test_the_reference_is_the_model_before_anything_was_put_into_it(run: Any, tmp_path: Path, method: str) -> None:
    data = write_rows(pairs(4), tmp_path / "rows")
    ran = run("dpo", {"method": {"type": method}, "max_steps": 3, "batch_size": 4, "max_seq_length": 64}, data=data)
    first = ran.curve("rewards_chosen")[1]
    assert (first == pytest.approx(0, abs=1e-4)) == (method == "ia3")  # what is not identical at first is moved already


def test_a_data_set_of_another_kind_is_refused(run: Any, data: Path) -> None:
    with pytest.raises(UserError, match="Row 1 is a chat row; this recipe learns from preference rows"):
        run("dpo", {"max_steps": 1}, data=data)


@pytest.mark.full
def test_direct_preference_optimisation_is_that_of_trl(run: Any, base: Path, tmp_path: Path) -> None:
    """The same losses step by step, with all weights in training and one batch of all rows.

    Where a template writes something behind the end of a turn, TRL learns that too; here it writes nothing.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    shutil.copytree(base, plain := tmp_path / "plain")
    (plain / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rows = pairs(8)
    given = [
        {name: [message.for_template() for message in getattr(row, name)] for name in ("prompt", "chosen", "rejected")}
        for row in rows
    ]
    arguments = DPOConfig(
        output_dir=str(tmp_path / "theirs"), use_cpu=True, bf16=False, beta=0.2, max_steps=4, learning_rate=5e-5,
        per_device_train_batch_size=8, lr_scheduler_type="constant", optim="adamw_torch", logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, max_length=512,
    )  # fmt: skip
    theirs = DPOTrainer(
        load_base(plain).train(), args=arguments, train_dataset=Dataset.from_list(given),
        processing_class=load_tokenizer(plain),
    )  # fmt: skip
    theirs.train()
    wanted = {line["step"]: line["loss"] for line in theirs.state.log_history if "loss" in line}
    ran = run(
        "dpo",
        {
            "method": {"type": "full"}, "beta": 0.2, "max_steps": 4, "learning_rate": 5e-5, "batch_size": 8,
            "scheduler": "constant", "warmup_ratio": 0.0, "max_grad_norm": 1.0,
        },
        base=plain,
        data=write_rows(rows, tmp_path / "rows"),
    )  # fmt: skip
    assert ran.curve("loss") == pytest.approx(wanted, rel=1e-3)
    assert wanted[4] < 0.9 * wanted[1]
