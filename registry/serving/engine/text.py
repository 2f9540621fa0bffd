"""From token ids to text, piece by piece, so that what was sent never has to be taken back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are not (yet) a character
LONGEST_PREFIX = 3  # bytes of a UTF-8 character that can still be waiting for its last one
CONTEXT = 4  # ids decoded again before new ones: some decoders treat the first token of a text differently


class TextStream:
    """Feed token ids, get text that is final.

    A character whose bytes are spread over several tokens is held back until it is whole, and so is text that may turn
    out to be the beginning of a stop sequence. Special tokens leave no text. The pieces, joined, are the answer's text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._start = 0  # ids before it are final; always at the border of a character
        self._border = 0  # the next start
        self._given = 0  # characters of decode(ids[start:]) that were passed on
        self._held = ""  # may begin a stop sequence
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that `token` makes final. A complete stop sequence sets `stopped`; the text ends before it."""
        self._ids.append(token)
        text = self._decode(self._start)
        settled = len(text)
        while settled > max(self._given, len(text) - LONGEST_PREFIX) and text[settled - 1] == UNFINISHED:
            settled -= 1
        new, self._given = text[self._given : settled], max(self._given, settled)
        if settled == len(text) and len(self._ids) - self._border >= CONTEXT:
            self._start, self._border = self._border, len(self._ids)
            self._given = len(self._decode(self._start))
        return self._without_stops(new)

    def finish(self) -> str:
        """What is left when no more tokens come. A broken character becomes the replacement character."""
        if self.stopped:
            return ""
        text = self._without_stops(self._decode(self._start)[self._given :])
        text, self._held = text + self._held, ""
        return text

    def _decode(self, start: int) -> str:
        return str(
            self._tokenizer.decode(self._ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _without_stops(self, new: str) -> str:
        text = self._held + new
        found = [index for index in (text.find(stop) for stop in self._stops) if index >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
