"""Supervised fine-tuning: it learns, says what it does, stops and goes on exactly, and refuses what can't work."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, TextRow
from project.contracts.runs import StopRequested, UserError
from project.modeling import checkpoints
from project.modeling.data import read_rows, write_rows
from project.modeling.generate import generate_batch
from project.modeling.loading import load_adapter, load_base, load_tokenizer
from project.modeling.render import question
from project.modeling.tiny import make_tiny_model
from training.engine.recipes.sft import SftParams
from training.engine.settings import Optimizer, Scheduler
from training.engine.tests.conftest import Ran, chat, go, lessons

QUICK = {"max_steps": 6, "batch_size": 4, "learning_rate": 1e-3}
LORA = {"type": "lora", "r": 4, "alpha": 8}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def answers(model, folder: Path, data: Path) -> float:
    tokenizer = load_tokenizer(folder)
    asked = [found for row in read_rows(data) if (found := question(tokenizer, row))]
    said = generate_batch(model, tokenizer, [one.ids for one in asked], max_new_tokens=16)
    return sum(answer.text == one.reference for answer, one in zip(said, asked, strict=True)) / len(asked)


@pytest.mark.parametrize("packing", [True, False])
def test_lora_learns_and_leaves_an_adapter_that_answers(run, base: Path, data: Path, packing: bool) -> None:
    shape = {"packing": True, "batch_size": 1, "max_seq_length": 128} if packing else {"batch_size": 4}
    ran = run("sft", {"method": {**LORA, "r": 16, "alpha": 32}, "epochs": 25, "learning_rate": 5e-3, **shape})
    assert answers(load_base(base), base, data) == 0
    assert answers(load_adapter(load_base(base), ran.artifact, "a"), base, data) >= 0.9
    losses = list(ran.curve("loss").values())
    assert losses[-1] < losses[0] / 5
    assert {file.name for file in ran.artifact.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("method", [LORA, {"type": "full"}], ids=["lora", "full"])
def test_bf16_computes_in_bf16_and_keeps_trained_weights_in_fp32(run, method) -> None:
    ran = run("sft", {**QUICK, "method": method, "precision": "bf16", "max_steps": 20, "learning_rate": 5e-3})
    losses = list(ran.curve("loss").values())
    assert losses[-1] < losses[0] / 2
    assert {tensor.dtype for tensor in weights(ran.artifact).values()} == {torch.float32}
    assert "Computing in bfloat16: flattened rows, attention within each row" in ran.logs()


@pytest.mark.parametrize("method", [LORA, {"type": "full"}], ids=["lora", "full"])
def test_recomputing_activations_changes_no_number(run, method) -> None:
    curves = [
        run("sft", {**QUICK, "method": method, "gradient_checkpointing": on}).curve("loss") for on in (True, False)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_an_adapter_names_no_path_of_this_host(run, tmp_path: Path) -> None:
    ran = run("sft", QUICK)
    text = b"".join(file.read_bytes() for file in ran.artifact.rglob("*") if file.is_file())
    assert str(tmp_path.parent).encode() not in text
    assert json.loads((ran.artifact / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


def test_full_fine_tuning_leaves_a_whole_model(run, base: Path, data: Path) -> None:
    ran = run("sft", {"method": {"type": "full"}, "epochs": 20, "batch_size": 4, "learning_rate": 2e-3})
    assert answers(load_base(ran.artifact), ran.artifact, data) >= 0.9
    config = json.loads((ran.artifact / "config.json").read_text())
    assert config["use_cache"] and config["tie_word_embeddings"] and config["dtype"] == "float32"
    assert load_tokenizer(ran.artifact).chat_template == load_tokenizer(base).chat_template
    text = b"".join(file.read_bytes() for file in ran.artifact.rglob("*") if file.is_file())
    assert str(base.parent).encode() not in text


def test_it_says_what_it_did(run, data: Path, base: Path) -> None:
    ran = run("sft", {**QUICK, "epochs": 1, "max_steps": None, "validation_split": 0.25, "method": LORA})
    steps = list(range(1, 6))  # 18 of 24 rows by 4
    for key in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
        assert list(ran.curve(key)) == steps
    assert list(ran.curve("eval_loss")) == [5]
    progress = ran.of("progress")
    assert (progress[-1].step, progress[-1].total, progress[-1].phase) == (5, 5, "save")
    assert {event.phase for event in progress} >= {"load", "train", "save"}
    result = ran.result
    tokenizer = load_tokenizer(base)
    from project.modeling.render import render_row

    assert (result["rows"], result["validation_rows"], result["steps"], result["epochs"]) == (18, 6, 5, 1.0)
    assert result["tokens_seen"] < sum(len(render_row(tokenizer, row).ids) for row in read_rows(data))
    assert 0 < result["supervised_tokens"] < result["tokens_seen"]
    assert result["eval_loss"] == pytest.approx(ran.curve("eval_loss")[5])
    assert result["train_loss"] == pytest.approx(sum(ran.curve("loss").values()) / 5)
    assert result["method"]["r"] == 4 and result["precision"] == "float32"
    assert 0 < result["trainable_parameters"] < result["parameters"]
    assert result["versions"]["trl"] and result["seconds"] > 0
    assert "18 rows to learn from, 6 to validate" in ran.logs()


@pytest.mark.parametrize(
    "method",
    [{**LORA, "dropout": 0.1}, {"type": "full"}],
    ids=["lora with dropout", "full"],
)
@pytest.mark.parametrize(
    "shape",
    [
        {"batch_size": 2, "gradient_accumulation_steps": 3},
        {"batch_size": 1, "packing": True, "max_seq_length": 64, "optimizer": "adafactor"},
    ],
    ids=["accumulated", "packed"],
)
def test_a_run_stopped_and_resumed_equals_one_that_was_not(run, start, method, shape) -> None:
    params = {**shape, "method": method, "max_steps": 11, "learning_rate": 1e-3, "validation_split": 0.2,
              "evaluate_every": 2, "save_best_model": True, "logging_steps": 2}  # fmt: skip
    whole = run("sft", params)
    halves = []
    for stop_at in (("train", 3), ("validate", 6), None):
        ran = start("sft", params, stop_at=stop_at, resume_from=halves[-1].checkpoint if halves else None)
        if stop_at:
            with pytest.raises(StopRequested):
                go(ran)
        else:
            go(ran)
        halves.append(ran)
    assert same(whole.artifact, halves[-1].artifact)
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        joined: dict[int, float] = {}
        for ran in halves:
            curve = ran.curve(key)
            assert not joined.keys() & curve.keys(), "a step was reported twice"
            joined |= curve
        assert joined == whole.curve(key)
    counted = ("steps", "tokens_seen", "supervised_tokens", "train_loss", "eval_loss", "best_step")
    assert {key: halves[-1].result[key] for key in counted} == {key: whole.result[key] for key in counted}


def test_a_stop_leaves_a_verified_checkpoint_of_the_step_it_came_in(start) -> None:
    ran = start("sft", QUICK, stop_at=("train", 2))
    with pytest.raises(StopRequested):
        go(ran)
    assert ran.checkpoint.name == "step-00000002" and checkpoints.problems(ran.checkpoint) == []
    assert not any(ran.artifact.iterdir())
    assert max(ran.curve("loss")) == 2
    assert not list(ran.checkpoint.rglob("training_args.bin"))


def test_checkpoints_come_as_asked_and_only_the_newest_stay(run) -> None:
    ran = run("sft", {**QUICK, "checkpoint_every": 2, "keep_checkpoints": 2})
    assert [event.step for event in ran.of("checkpoint")] == [2, 4, 6]
    assert sorted(path.name for path in (ran.folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


def test_a_run_that_lacked_only_its_end_is_finished_from_its_last_checkpoint(run) -> None:
    whole = run("sft", QUICK)
    again = run("sft", QUICK, resume_from=whole.checkpoint)
    assert same(whole.artifact, again.artifact)
    assert again.curve("loss") == {} and again.result["steps"] == 6


def test_a_checkpoint_that_does_not_fit_is_refused(run, tmp_path: Path) -> None:
    checkpoint = run("sft", {**QUICK, "checkpoint_every": 3}).checkpoint
    with pytest.raises(UserError, match="other settings"):
        run("sft", {**QUICK, "learning_rate": 1e-4}, resume_from=checkpoint)
    with pytest.raises(UserError, match="other data"):
        run("sft", QUICK, resume_from=checkpoint, data=write_rows(lessons(23), tmp_path / "other"))
    halved = {**QUICK, "batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 2}
    healed = run("sft", halved, resume_from=checkpoint)  # what is done after running out of memory
    [resumed] = healed.of("resumed")
    assert (resumed.step, resumed.differences) == (6, ("with a batch_size of 2 instead of 4",))
    damaged = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
    (damaged / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"optimizer\.pt is damaged"):
        run("sft", QUICK, resume_from=damaged)


def test_the_best_weights_are_kept_and_a_run_without_gain_ends_early(run, base: Path, data: Path) -> None:
    params = {"method": {"type": "full"}, "epochs": 12, "batch_size": 4, "learning_rate": 5e-3, "save_best_model": True,
              "scheduler": "constant", "validation_split": 0.25,
              "early_stopping": {"enabled": True, "patience": 2}}  # fmt: skip
    ran = run("sft", params)
    curve = ran.curve("eval_loss")
    best = min(curve, key=curve.__getitem__)
    assert ran.result["stopped_early"] and ran.result["steps"] == max(curve) < 12 * 5
    assert (ran.result["best_step"], ran.result["eval_loss"]) == (best, curve[best])
    assert list(curve).index(best) == len(curve) - 3
    assert same(ran.artifact, ran.checkpoint / "best") and not same(ran.artifact, ran.checkpoint)
    assert "Stopped early" in ran.logs()


def test_a_separate_validation_set_is_used_whole(run, tmp_path: Path) -> None:
    ran = run("sft", QUICK, validation=write_rows([chat("a", "b")], tmp_path / "v"))
    assert (ran.result["rows"], ran.result["validation_rows"]) == (24, 1)
    assert ran.result["eval_loss"] is not None


def test_cut_and_empty_rows_are_counted_and_said(run, tmp_path: Path) -> None:
    silent = ChatRow(messages=(Message(role="user", content="a"), Message(role="assistant", content="b", weight=0)))
    rows = [*lessons(6), chat("long " * 100, "never reached"), chat("q", "long answer " * 100), silent]
    ran = run("sft", {**QUICK, "max_seq_length": 64}, data=write_rows(rows, tmp_path / "d"))
    assert (ran.result["rows"], ran.result["truncated_rows"], ran.result["unlearnable_rows"]) == (7, 2, 2)
    assert ran.result["truncated_tokens"] > 100
    warnings = [event.message for event in ran.of("log") if event.level == "warning"]
    assert "2 rows are longer than max_seq_length 64" in warnings[0] and "2 rows have nothing to learn" in warnings[1]


@pytest.mark.parametrize(
    ("rows", "message", "field"),
    [
        ([], "has no rows", "data"),
        (
            [chat("a", "b").model_copy(update={"messages": (Message(role="user", content="a"),)})],
            "None of the 1",
            "data",
        ),
        ([chat("long " * 100, "b")], "None of the 1", "max_seq_length"),
        ([chat("a", "b"), TextRow(text="t")], "Row 2 is a text row", "data"),
        ([ChatRow(messages=(Message(role="assistant", content="a"),))], "Row 1: .*begins with an assistant", "data"),
    ],
)
def test_data_without_anything_to_learn_is_refused(run, tmp_path: Path, rows, message: str, field: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run("sft", {**QUICK, "max_seq_length": 32}, data=write_rows(rows, tmp_path / "d"))
    assert caught.value.field == field


def test_a_model_without_a_template_learns_completions_only(run, tmp_path: Path) -> None:
    bare = make_tiny_model(tmp_path / "bare", template=False)
    rows = [CompletionRow(prompt=f"{i} + 1 =", completion=f" {i + 1}") for i in range(8)]
    ran = run(
        "sft", {**QUICK, "max_steps": 80, "learning_rate": 5e-3}, base=bare, data=write_rows(rows, tmp_path / "d")
    )
    assert answers(load_adapter(load_base(bare), ran.artifact, "a"), bare, tmp_path / "d") == 1
    with pytest.raises(UserError, match=r"Row 1: .*no chat template"):
        run("sft", QUICK, base=bare)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"max_seq_length": 513}, "max_seq_length"),
        ({"early_stopping": {"enabled": True}}, "early_stopping"),
        ({"save_best_model": True}, "save_best_model"),
        ({"method": {"type": "lora", "target_modules": ["q_proj", "no_such"]}}, "method.target_modules"),
        ({"method": {"type": "lora", "target_modules": ["lm_head"]}}, "method.target_modules"),
    ],
)
def test_settings_that_can_not_work_are_refused_by_name(run, params, field: str) -> None:
    with pytest.raises(UserError) as caught:
        run("sft", {**QUICK, **params})
    assert caught.value.field == field


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(start) -> None:
    wild = {"learning_rate": 1.0, "optimizer": "sgd", "max_grad_norm": 0, "scheduler": "constant", "warmup_ratio": 0}
    ran = start("sft", {**QUICK, **wild, "method": {"type": "full"}, "max_steps": 200, "checkpoint_every": 1})
    with pytest.raises(UserError, match="no longer a number") as caught:
        go(ran)
    assert caught.value.field == "learning_rate" and "now 1" in caught.value.hint
    assert checkpoints.problems(ran.checkpoint) == []
    assert all(torch.isfinite(tensor).all() for tensor in weights(ran.checkpoint).values())


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"learning_rate": 0}, ("learning_rate",)),
        ({"learning_rate": -1e-4}, ("learning_rate",)),
        ({"learning_rate": float("nan")}, ("learning_rate",)),
        ({"learning_rate": "fast"}, ("learning_rate",)),
        ({"batch_size": 10**9}, ("batch_size",)),
        ({"batch_size": 2.5}, ("batch_size",)),
        ({"epochs": float("inf")}, ("epochs",)),
        ({"max_steps": 0}, ("max_steps",)),
        ({"method": {"type": "lora", "r": 0}}, ("method", "lora", "r")),
        ({"method": {"type": "lora", "bits": 3}}, ("method", "lora", "bits")),
        ({"method": {"type": "full", "r": 8}}, ("method", "full", "r")),
        ({"method": {"type": "lorra"}}, ("method",)),
        ({"optimizer": "adamv"}, ("optimizer",)),
        ({"early_stopping": {"patience": 0}}, ("early_stopping", "patience")),
        ({"learning_rat": 1e-4}, ("learning_rat",)),
    ],
)
def test_bad_settings_name_their_field(params, field) -> None:
    with pytest.raises(ValidationError) as caught:
        SftParams.model_validate(params)
    assert [error["loc"] for error in caught.value.errors()] == [field]


def test_every_setting_says_what_it_does() -> None:
    properties = SftParams.model_json_schema()["properties"]
    assert [name for name, one in properties.items() if "description" not in one] == []


@pytest.mark.full
def test_a_killed_process_is_resumed_to_the_same_weights(start) -> None:
    """In processes of their own, as jobs run: one is left alone, one is killed after its second checkpoint."""
    params = {**QUICK, "max_steps": 30, "checkpoint_every": 5, "method": {**LORA, "dropout": 0.1}}

    def launch(ran: Ran) -> subprocess.Popen[bytes]:
        ran.context.close()
        return subprocess.Popen([sys.executable, "-m", "training.engine", str(ran.folder)])

    whole, killed = start("sft", params), start("sft", {**params, "keep_checkpoints": 9})
    assert launch(whole).wait(120) == 0
    process = launch(killed)
    until = time.monotonic() + 120
    while not (killed.folder / "checkpoints" / "step-00000010" / "COMMIT").exists() and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    assert process.wait(10) == -9
    newest = checkpoints.newest([killed.folder / "checkpoints"])
    assert newest is not None
    resumed = start("sft", params, resume_from=newest)
    assert launch(resumed).wait(120) == 0
    assert same(whole.artifact, resumed.artifact)
    assert resumed.of("done") and not killed.of("done")


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom project.contracts.runs import RECIPES\nfrom training.engine.metrics_registry import METRICS\n"
        "[recipe.Params.model_json_schema() for recipe in RECIPES.all()]; METRICS.all()\n"
        "assert {'sft', 'evaluate'} <= set(RECIPES.names()), RECIPES.broken()\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_optimizer_learns_and_resumes_exactly(run, start, optimizer: str) -> None:
    rate = {"sgd": 0.5, "lion": 1e-3, "lion_8bit": 1e-3}.get(optimizer, 2e-3)
    params = {"method": LORA, "max_steps": 12, "batch_size": 4, "learning_rate": rate, "optimizer": optimizer}
    whole = run("sft", params)
    losses = list(whole.curve("loss").values())
    assert losses[-1] < 0.97 * losses[0]
    stopped = start("sft", params, stop_at=("train", 5))
    with pytest.raises(StopRequested):
        go(stopped)
    assert same(whole.artifact, run("sft", params, resume_from=stopped.checkpoint).artifact)


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_every_scheduler_falls_as_it_says(run, scheduler: str) -> None:
    params = {"method": LORA, "max_steps": 20, "batch_size": 2, "learning_rate": 1e-3, "warmup_ratio": 0.1}
    rates = list(run("sft", {**params, "scheduler": scheduler}).curve("learning_rate").values())
    assert rates[2] == pytest.approx(max(rates)) and max(rates) == pytest.approx(1e-3)
    last = {"constant": 1e-3, "cosine_with_min_lr": 1e-4, "inverse_sqrt": 3e-4, "warmup_stable_decay": 2e-4}
    assert rates[-1] == pytest.approx(last.get(scheduler, 0), abs=1.5e-4)
    if scheduler == "warmup_stable_decay":
        assert rates[15] == pytest.approx(1e-3)
