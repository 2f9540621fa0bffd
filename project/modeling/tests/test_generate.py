"""Answers: the same alone and in a batch, ended where they should, in pieces that join to the whole."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from project.contracts.runs import UserError
from project.modeling.generate import Generation, TextPieces, decode, generate_batch, stream
from project.modeling.loading import load_base, load_tokenizer

PROMPTS = [[5, 60, 7], [9], [200, 201, 202, 203, 204, 205, 206], [31, 32]]


@pytest.fixture(scope="module")
def model(tiny: Path):
    return load_base(tiny)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path):
    return load_tokenizer(tiny)


def by_hand(model, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_is_the_most_likely_token_each_time_alone_and_in_a_batch(model, tokenizer) -> None:
    together = generate_batch(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert [answer.ids for answer in together] == [by_hand(model, prompt, 8) for prompt in PROMPTS]
    assert {answer.finish_reason for answer in together} == {"length"}
    assert generate_batch(model, tokenizer, [], max_new_tokens=8) == []


def test_a_seed_gives_a_prompt_its_answer_wherever_it_stands(model, tokenizer) -> None:
    before = torch.random.get_rng_state()
    together = generate_batch(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=4)
    alone = generate_batch(model, tokenizer, PROMPTS[2:3], max_new_tokens=8, temperature=1.0, seed=4)
    assert together[2] == alone[0]
    assert generate_batch(model, tokenizer, PROMPTS[2:3], max_new_tokens=8, temperature=1.0, seed=5) != alone
    assert torch.equal(before, torch.random.get_rng_state())


def test_sampling_follows_the_models_probabilities(model, tokenizer) -> None:
    prompt, draws, temperature = [5, 60, 7], 2000, 0.5
    with torch.inference_mode():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
    drawn: Counter[int] = Counter()
    for _ in range(10):
        # One seed would give every row the same numbers: without one, each row has its own.
        batch = generate_batch(model, tokenizer, [prompt] * (draws // 10), max_new_tokens=1, temperature=temperature)
        drawn.update(answer.ids[0] for answer in batch)
    likely = expected.topk(5).indices.tolist()
    for token in likely:
        share = float(expected[token])
        assert abs(drawn[token] / draws - share) < 5 * (share * (1 - share) / draws) ** 0.5
    top = generate_batch(model, tokenizer, [prompt] * 50, max_new_tokens=1, temperature=1.0, top_p=1e-6)
    assert {answer.ids[0] for answer in top} == {likely[0]}


def test_log_probabilities_are_those_of_the_tokens(model, tokenizer) -> None:
    (answer,) = generate_batch(model, tokenizer, PROMPTS[:1], max_new_tokens=5, logprobs=True)
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPTS[0] + answer.ids])).logits[0].log_softmax(-1)
    expected = [float(logits[len(PROMPTS[0]) - 1 + i, token]) for i, token in enumerate(answer.ids)]
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)


def test_an_answer_ends_at_an_end_token_and_does_not_show_it(model, tokenizer, monkeypatch) -> None:
    wanted = by_hand(model, PROMPTS[0], 8)
    end = next(token for i, token in enumerate(wanted) if i and token not in wanted[:i])
    monkeypatch.setattr(model.generation_config, "eos_token_id", [end])
    answers = generate_batch(model, tokenizer, PROMPTS, max_new_tokens=8)
    cut = wanted[: wanted.index(end) + 1]
    assert answers[0] == Generation(cut, decode(tokenizer, cut[:-1]), "stop")
    for prompt, answer in zip(PROMPTS[1:], answers[1:], strict=True):
        free = by_hand(model, prompt, 8)
        assert answer.ids == (free[: free.index(end) + 1] if end in free else free)


def test_an_answer_ends_before_a_stop_text(model, tokenizer) -> None:
    free = generate_batch(model, tokenizer, PROMPTS, max_new_tokens=24)
    stop = free[2].text[5:7]
    stopped = generate_batch(model, tokenizer, PROMPTS, max_new_tokens=24, stop=[stop])
    for before, after in zip(free, stopped, strict=True):
        assert after.text == before.text.split(stop)[0]
        assert after.finish_reason == ("stop" if stop in before.text else "length")
        assert before.ids[: len(after.ids)] == after.ids


def test_the_context_is_respected(model, tokenizer) -> None:
    (answer,) = generate_batch(model, tokenizer, [[7] * 508], max_new_tokens=50)
    assert len(answer.ids) == 4 and answer.finish_reason == "length"
    with pytest.raises(UserError, match=r"512 tokens.*room for 512"):
        generate_batch(model, tokenizer, [[7] * 512], max_new_tokens=1)
    with pytest.raises(UserError, match="empty"):
        generate_batch(model, tokenizer, [[]], max_new_tokens=1)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.0, "seed": 3}, {"stop": ["e"]}, {"temperature": 1.5, "seed": 1}]
)
def test_streamed_pieces_join_to_the_whole_answer(model, tokenizer, settings) -> None:
    (whole,) = generate_batch(model, tokenizer, PROMPTS[:1], max_new_tokens=40, **settings)
    *pieces, last = stream(model, tokenizer, PROMPTS[0], max_new_tokens=40, **settings)
    assert last == whole
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1


def test_pieces_are_whole_characters_and_hold_back_what_may_be_a_stop(tokenizer) -> None:
    text = "naïve 漢字 🦊 END of it"
    ids = tokenizer(text).input_ids
    assert len(ids) > len(text.split())
    pieces = TextPieces(tokenizer)
    said = [piece for token in ids if (piece := pieces.add(token))]
    assert "".join(said) == text and not any("\ufffd" in piece for piece in said)
    careful = TextPieces(tokenizer, ["END"])
    assert "".join(careful.add(token) for token in ids) == "naïve 漢字 🦊 "


def test_closing_a_stream_ends_it_and_an_error_reaches_the_reader(model, tokenizer) -> None:
    flow = stream(model, tokenizer, PROMPTS[0], max_new_tokens=400)
    next(flow)
    flow.close()  # joins the generating thread
    with pytest.raises(UserError, match="room for 512"):
        list(stream(model, tokenizer, [7] * 600, max_new_tokens=1))
