"""Evaluation: what a model answered, how good that is and how sure we are, and nothing scored that was cut short."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, TextRow
from project.contracts.runs import RECIPES, StopRequested, UserError
from project.modeling.data import write_rows
from training.engine.intervals import bootstrap, wilson
from training.engine.metrics_registry import METRICS, Case
from training.engine.recipes.evaluate import EvaluateParams
from training.engine.tests.conftest import Ran, Stopping, chat, go, lessons

PARAMS = {"max_new_tokens": 16, "batch_size": 5}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Ran:
    """A model that knows its lessons, and how it was made."""
    from project.contracts.runs import RunSpec

    folder = tmp_path_factory.mktemp("tuned")
    params = {"method": {"type": "lora", "r": 16, "alpha": 32}, "epochs": 25, "batch_size": 4, "learning_rate": 5e-3}
    inputs = {"base": str(base), "data": str(data), "validation": str(data)}
    return go(Ran(folder, Stopping(folder, RunSpec(job="j", attempt=1, recipe="sft", params=params, inputs=inputs))))


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ran.artifact / "answers.jsonl").read_text().splitlines()]


def test_a_tuned_model_scores_and_its_base_does_not(run, tuned: Ran) -> None:
    before, after = run("evaluate", PARAMS), run("evaluate", PARAMS, adapter=tuned.artifact)
    assert before.result["scores"]["exact_match"]["value"] == 0
    assert before.result["scores"]["exact_match"]["high"] > 0.1  # 24 rows: nobody is that sure
    assert after.result["scores"]["exact_match"]["value"] >= 0.9
    assert after.result["scores"]["f1"]["value"] > before.result["scores"]["f1"]["value"]
    assert after.result["scores"]["perplexity"]["value"] < 2 < before.result["scores"]["perplexity"]["value"]
    for scores in (before.result["scores"], after.result["scores"]):
        assert set(scores) == {"exact_match", "f1", "perplexity", "latency"}
        assert all(one["low"] <= one["value"] <= one["high"] for one in scores.values())
        assert {name: one["n"] for name, one in scores.items()} == {
            "exact_match": 24, "f1": 24, "perplexity": 24, "latency": 8,
        }  # fmt: skip
    assert after.result["rows"] == 24 and after.result["cut_answers"] == 0


def test_perplexity_is_that_of_the_training_loss(run, tuned: Ran) -> None:
    """Training and evaluation see the same tokens of a row through different code."""
    found = run("evaluate", {"metrics": ["perplexity"]}, adapter=tuned.artifact)
    trained = tuned.result["eval_loss"]
    assert math.log(found.result["scores"]["perplexity"]["value"]) == pytest.approx(trained, abs=1e-4)
    assert lines(found)[0]["answer"] is None


def test_every_answer_is_kept_in_the_order_of_the_data(run, tuned: Ran) -> None:
    ran = run("evaluate", PARAMS, adapter=tuned.artifact)
    kept = lines(ran)
    assert [line["row"] for line in kept] == list(range(1, 25))
    assert [line["reference"] for line in kept] == [row.messages[1].content for row in lessons()]
    assert [line["prompt"] for line in kept] == [row.messages[0].content for row in lessons()]
    for line in kept:
        assert line["scores"]["exact_match"] == float(line["answer"] == line["reference"])
        assert line["finish_reason"] == "stop"
    assert len(ran.of("sample")) == 5 and ran.of("progress")[-1].step == 24


def test_the_size_of_a_batch_changes_nothing(run, tuned: Ran) -> None:
    one, many = (run("evaluate", {**PARAMS, "metrics": ["exact_match"], "batch_size": n}) for n in (1, 24))
    assert [line["answer"] for line in lines(one)] == [line["answer"] for line in lines(many)]


def test_a_limit_draws_the_same_rows_each_time(run) -> None:
    rows = [[line["row"] for line in lines(run("evaluate", {**PARAMS, "metrics": ["f1"], "limit": 6, "seed": s}))]
            for s in (1, 1, 2)]  # fmt: skip
    assert rows[0] == rows[1] != rows[2]
    assert all(len(one) == 6 and one == sorted(one) for one in rows)


def test_answers_have_room_for_twice_the_longest_reference(run, tuned: Ran, tmp_path: Path) -> None:
    rows = write_rows([*lessons(2), chat("a", "word " * 40)], tmp_path / "d")
    ran = run("evaluate", {"metrics": ["exact_match"]}, adapter=tuned.artifact, data=rows)
    assert ran.result["max_new_tokens"] > 2 * 40
    assert run("evaluate", {"metrics": ["exact_match"]}, adapter=tuned.artifact).result["max_new_tokens"] == 32


def test_cut_answers_are_counted(run, tuned: Ran) -> None:
    ran = run("evaluate", {"metrics": ["exact_match"], "max_new_tokens": 2}, adapter=tuned.artifact)
    assert ran.result["cut_answers"] == 24
    assert ran.result["scores"]["exact_match"]["value"] == 0


def test_the_last_answer_of_a_conversation_is_asked_for(run, tmp_path: Path) -> None:
    talk = ChatRow(
        messages=(
            Message(role="system", content="s"),
            Message(role="user", content="first"),
            Message(role="assistant", content="one"),
            Message(role="user", content="second"),
            Message(role="assistant", content="two", weight=0),
            Message(role="user", content="never asked"),
        )
    )
    ran = run("evaluate", PARAMS, data=write_rows([talk], tmp_path / "d"))
    assert (lines(ran)[0]["prompt"], lines(ran)[0]["reference"]) == ("second", "two")
    assert ran.result["scores"]["perplexity"]["n"] == 1


def test_rows_that_can_not_be_asked_are_skipped_and_said(run, tmp_path: Path) -> None:
    mute = ChatRow(messages=(Message(role="user", content="a"),))
    ran = run("evaluate", PARAMS, data=write_rows([chat("a", "b"), mute, chat("x " * 600, "b")], tmp_path / "d"))
    assert (ran.result["rows"], ran.result["skipped"]) == (1, 2)
    assert "2 rows have no answer to compare with" in ran.logs()
    with pytest.raises(UserError, match="None of the 1 rows"):
        run("evaluate", PARAMS, data=write_rows([mute], tmp_path / "m"))
    with pytest.raises(UserError, match="Row 1 is a text row"):
        run("evaluate", PARAMS, data=write_rows([TextRow(text="t")], tmp_path / "t"))


@pytest.mark.parametrize("phase", ["likelihood", "time", "answer"])
def test_a_stop_ends_it_without_a_score(start, phase: str) -> None:
    ran = start("evaluate", PARAMS, stop_at=(phase, 2))
    with pytest.raises(StopRequested):
        go(ran)
    assert not ran.of("metrics") and ran.context.outcome is None


def test_an_unknown_metric_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValidationError, match=r"Unknown metric 'exact_mach'. Did you mean 'exact_match'\?"):
        EvaluateParams(metrics=("f1", "exact_mach"))
    assert EvaluateParams(metrics=("f1", "f1")).metrics == ("f1",)
    for wrong in ({"metrics": []}, {"limit": 0}, {"max_new_tokens": 0}, {"batch_size": -1}, {"limits": 3}):
        with pytest.raises(ValidationError):
            EvaluateParams.model_validate(wrong)


def test_the_recipe_and_its_metrics_are_whole_plug_ins() -> None:
    assert METRICS.names() == ["exact_match", "f1", "latency", "perplexity"] and METRICS.broken() == []
    assert {"sft", "evaluate"} <= set(RECIPES.names()) and RECIPES.broken() == []


def case(answer: str, reference: str) -> Case:
    return Case(prompt="", reference=reference, answer=answer)


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ('{"a":1}', '{"a":1}', 1, 1),
        (' {"a":1}\n', '{"a":1}', 1, 1),
        ('{"a": 1}', '{"a":1}', 0, 1),
        ("The cat sat", "a cat sat.", 0, 1),
        ("Cat", "cat", 0, 1),
        ("cat cat dog", "cat bird", 0, 0.4),
        ("", "", 1, 1),
        ("", "x", 0, 0),
        ("x", "", 0, 0),
        ("naïve 漢字", "naïve 漢字", 1, 1),
    ],
)
def test_answers_are_compared(answer: str, reference: str, exact: float, f1: float) -> None:
    assert METRICS.get("exact_match").score(case(answer, reference)) == exact
    assert METRICS.get("f1").score(case(answer, reference)) == pytest.approx(f1)


def test_metrics_without_their_measurement_have_no_score() -> None:
    empty = Case(prompt="p", reference="r")
    assert {metric.name: metric.score(empty) for metric in METRICS.all()} == dict.fromkeys(METRICS.names())


def test_perplexity_weighs_tokens_not_rows() -> None:
    cases = [Case("", "", nll=math.log(4) * 9, reference_tokens=9), Case("", "", nll=math.log(2), reference_tokens=1)]
    metric = METRICS.get("perplexity")
    scores = [score for one in cases if (score := metric.score(one)) is not None]
    assert scores == pytest.approx([4, 2])
    assert metric.summarise(cases, scores).value == pytest.approx(math.exp((9 * math.log(4) + math.log(2)) / 10))
    assert metric.score(Case("", "", nll=1e9, reference_tokens=1)) == pytest.approx(math.exp(700))


def test_the_wilson_interval_is_that_of_the_literature() -> None:
    """Newcombe 1998, table I: 81 of 263 and 0 of 20, to four digits."""
    assert (round(wilson(81, 263).low, 4), round(wilson(81, 263).high, 4)) == (0.2553, 0.3662)
    assert (wilson(0, 20).low, round(wilson(0, 20).high, 4)) == (0.0, 0.1611)
    assert wilson(20, 20).high == 1.0 and wilson(20, 20).low == pytest.approx(1 - 0.1611, abs=1e-4)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    chance = random.Random(0)
    covered = Counter()
    for trial in range(200):
        found = bootstrap([[chance.gauss(3, 1)] for _ in range(50)], lambda rows: rows[..., 0].mean(-1), seed=trial)
        covered[found.low <= 3 <= found.high] += 1
    assert 0.89 <= covered[True] / 200 <= 0.985
    again = [bootstrap([[1.0], [2.0], [4.0]], lambda rows: rows[..., 0].mean(-1)) for _ in range(2)]
    assert again[0] == again[1] and again[0].n == 3


def test_no_global_random_state_is_touched(run) -> None:
    before = torch.random.get_rng_state()
    run("evaluate", {**PARAMS, "limit": 2, "metrics": ["exact_match"]})
    assert torch.equal(before, torch.random.get_rng_state())
