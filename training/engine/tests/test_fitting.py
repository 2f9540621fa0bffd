"""The same work in less memory, and what a person is offered after a failure."""

import pytest

from project.contracts.events import FailureClass
from training.engine import finetuning
from training.engine.fitting import smaller
from training.engine.methods.full import Full
from training.engine.methods.lora import Lora
from training.engine.recipes import evaluate, kto, sft
from training.engine.recipes.kto import KtoParams
from training.engine.recipes.sft import SftParams


@pytest.mark.parametrize(
    ("size", "accumulation", "becomes"), [(8, 1, (4, 2)), (9, 2, (3, 6)), (7, 1, (1, 7)), (2, 8, (1, 16))]
)
def test_the_effective_batch_stays(size: int, accumulation: int, becomes: tuple[int, int]) -> None:
    params = SftParams(batch_size=size, gradient_accumulation_steps=accumulation)
    less = smaller(params)
    assert less is not None
    assert (less.batch_size, less.gradient_accumulation_steps) == becomes
    assert less.learning_rate == params.learning_rate


def test_at_last_activations_are_computed_twice_and_then_nothing_is_left() -> None:
    single = SftParams(batch_size=1)
    recomputing = smaller(single)
    assert recomputing is not None and recomputing.gradient_checkpointing
    assert smaller(recomputing) is None
    assert smaller(SftParams(batch_size=4096, gradient_accumulation_steps=4096, gradient_checkpointing=True)) is None


def test_a_healed_run_may_go_on_from_its_checkpoints() -> None:
    """Its settings have the digest of those before; any other change has another one."""
    params = SftParams(batch_size=8)
    less = smaller(params)
    assert less is not None
    same = finetuning._plan(params, 100, "data").config_digest
    assert finetuning._plan(less, 100, "data").config_digest == same
    assert finetuning._plan(params.model_copy(update={"learning_rate": 1e-5}), 100, "data").config_digest != same


def test_what_is_offered() -> None:
    full = SftParams(method=Full(), max_seq_length=512)
    offered = {remedy.key: remedy.params for remedy in sft.remedies(full, FailureClass.DEVICE_MEMORY, "")}
    assert list(offered) == ["smaller-batch", "shorter-sequences", "lora"]
    assert offered["shorter-sequences"] == full.model_copy(update={"max_seq_length": 256})
    assert offered["lora"] == full.model_copy(update={"method": Lora()})
    assert [each.key for each in sft.remedies(SftParams(max_seq_length=100), FailureClass.HOST_MEMORY, "")] == [
        "smaller-batch"
    ]
    slower = sft.remedies(SftParams(learning_rate=1e-2), FailureClass.USER_ERROR, "learning_rate")
    assert [(each.key, each.params) for each in slower] == [("lower-learning-rate", SftParams(learning_rate=1e-3))]
    assert sft.remedies(full, FailureClass.CRASH, "") == []
    fewer = evaluate.remedies(evaluate.EvaluateParams(batch_size=16), FailureClass.DEVICE_MEMORY, "")
    assert [each.params for each in fewer] == [evaluate.EvaluateParams(batch_size=8)]


@pytest.mark.parametrize(
    ("size", "becomes"),
    [(8, (4, 2, False)), (6, (3, 2, False)), (4, (2, 2, False)), (3, (3, 1, True)), (2, (2, 1, True))],
)
def test_what_needs_rows_to_compare_keeps_two_of_them(size: int, becomes: tuple[int, int, bool]) -> None:
    """A run that was healed is started again with its parameters, so these must be allowed."""
    params = KtoParams(batch_size=size)
    less = kto.smaller(params)
    assert less is not None
    assert (less.batch_size, less.gradient_accumulation_steps, less.gradient_checkpointing) == becomes
    assert KtoParams.model_validate(less.model_dump()) == less
    assert kto.remedies(params, FailureClass.DEVICE_MEMORY, "")[0].params == less
