"""Tokens as text that people can read: which part of a row each of them stands for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF = "\ufffd"
_LONGEST = 8  # tokens of one character; more are no character, but broken bytes


def pieces(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    """The text of each token, special ones included. Together they are the text of `ids`.

    A character that is made of several tokens (an emoji often is) stands at the first of them; the others are empty.
    """
    found: list[str] = []
    start = 0
    while start < len(ids):
        text, end = "", start
        while end < len(ids) and end - start < _LONGEST:
            end += 1
            text = _decode(tokenizer, ids[start:end])
            if not text.endswith(_HALF):
                break
        else:
            end = start + 1
            text = _decode(tokenizer, ids[start:end])
        found += [text] + [""] * (end - start - 1)
        start = end
    return found


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
