"""Text comes out piece by piece and is never taken back: characters are whole, stop sequences never leak."""

import random
from typing import Any

import pytest

from project.modeling.loading import load_tokenizer
from project.modeling.tiny import make_tiny_model
from registry.serving.engine.text import TextStream


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    found = []
    for token in ids:
        found.append(stream.feed(token))
        if stream.stopped:
            break
    return [*found, stream.finish()]


@pytest.mark.parametrize(
    "text", ["Grüße, 世界! 👩‍👩‍👧 مرحبا", "日本語のテキスト" * 5, "plain words and 12 numbers", "", "🏳️‍🌈" * 7]
)
def test_characters_are_never_cut(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = pieces(TextStream(tokenizer), ids)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)
    assert len(ids) <= len(text.encode()) and (len(text) < 8 or sum(map(bool, found)) > 1)  # it does stream


def test_broken_bytes_become_replacement_characters_in_the_end(tokenizer: Any) -> None:
    ids = tokenizer("a👍", add_special_tokens=False).input_ids
    assert "".join(pieces(TextStream(tokenizer), ids[:-1])) == "a\ufffd"


def test_special_tokens_leave_no_text(tokenizer: Any) -> None:
    ids = tokenizer("a<|im_start|>b", add_special_tokens=False).input_ids
    assert "".join(pieces(TextStream(tokenizer), ids)) == "ab"


def test_random_bytes_give_what_decoding_at_once_gives(tokenizer: Any) -> None:
    dice = random.Random(7)
    for _ in range(50):
        ids = [dice.randrange(3, 512) for _ in range(80)]
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert "".join(pieces(TextStream(tokenizer), ids)) == whole


@pytest.mark.parametrize("stop", ["END", "\n\n", "世界", "aab"])
def test_a_stop_sequence_never_leaks_wherever_the_tokens_break(tokenizer: Any, stop: str) -> None:
    dice = random.Random(3)
    for _ in range(100):
        alphabet = [*stop, "a", " the ", stop[:-1]]
        text = "".join(dice.choice(alphabet) for _ in range(40))
        ids = tokenizer(text, add_special_tokens=False).input_ids
        stream = TextStream(tokenizer, [stop, "never there"])
        found = pieces(stream, ids)
        assert "".join(found) == text.partition(stop)[0]
        assert stream.stopped == (stop in text)
        sent = ""
        for piece in found:  # at no moment more than the final text
            sent += piece
            assert text.partition(stop)[0].startswith(sent)


def test_the_earliest_of_several_stop_sequences_wins(tokenizer: Any) -> None:
    ids = tokenizer("one two three four", add_special_tokens=False).input_ids
    assert "".join(pieces(TextStream(tokenizer, ["three", "two"]), ids)) == "one "
