"""The rows that are decoded together, and their key-value cache.

Rows join and leave between steps. They are aligned at their newest token; shorter ones are padded on the left, and the
mask hides the padding, so that a row's numbers do not depend on its neighbours (in float32, to rounding).
"""

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from registry.serving.engine.model import ServedModel

SPARE = 64  # positions reserved at a time, so that a step does not copy the whole cache


class BatchRow(Protocol):
    """What a batch needs to know about a row."""

    @property
    def voice_name(self) -> str: ...

    @property
    def prompt(self) -> list[int]: ...


R = TypeVar("R", bound=BatchRow)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room to grow: keys and values (rows, heads, positions, width) are views of larger tensors."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self._room = (self.keys, self.values)
        length, new = self.keys.shape[-2], key_states.shape[-2]
        if length + new > self._room[0].shape[-2]:
            self._room = (self._larger(self.keys, new), self._larger(self.values, new))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, length : length + new] = states
        self.keys, self.values = (room[:, :, : length + new] for room in self._room)
        return self.keys, self.values

    def _larger(self, old: torch.Tensor, new: int) -> torch.Tensor:
        rows, heads, length, width = old.shape
        room = old.new_zeros((rows, heads, length + new + SPARE, width))
        room[:, :, :length] = old
        return room

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take these as the whole content."""
        self.keys, self.values = keys, values
        self._room = (keys, values)

    def get_seq_length(self) -> int:
        return int(self.keys.shape[-2]) if self.is_initialized else 0


def new_cache() -> Cache:
    return Cache(layer_class_to_replicate=RoomyLayer)


class Batch(Generic[R]):
    """Rows being decoded, with what they have read and written so far."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self.rows: list[R] = []
        self._cache = new_cache()
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=model.device)  # (rows, positions), 1 = real

    @property
    def length(self) -> int:
        """Positions in the cache, of every row."""
        return int(self._mask.shape[1])

    def join(self, rows: Sequence[R]) -> torch.Tensor:
        """Read the prompts of `rows` and add them. Returns the logits after each prompt (rows, vocabulary)."""
        longest = max(len(row.prompt) for row in rows)
        device = self._model.device
        ids = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, longest - len(row.prompt) :] = torch.tensor(row.prompt, device=device)
            mask[index, longest - len(row.prompt) :] = 1
        cache = new_cache()
        names = [row.voice_name for row in rows]
        logits, mask = self._model.begin(names, ids, mask=mask, cache=cache)
        longest = int(mask.shape[1])
        if self.rows:
            _append(self._cache, cache)
            self._mask = torch.cat([_pad(self._mask, longest, 1), _pad(mask, self.length, 1)])
        else:
            self._cache, self._mask = cache, mask
        self.rows += rows
        return logits

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Give every row its newest token. Returns the logits that follow (rows, vocabulary)."""
        device = self._model.device
        ids = torch.tensor(tokens, dtype=torch.long, device=device)[:, None]
        positions = self._mask.sum(-1, keepdim=True)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        names = [row.voice_name for row in self.rows]
        return self._model.forward(names, ids, mask=self._mask, positions=positions, cache=self._cache)

    def keep(self, indices: Sequence[int]) -> None:
        """Let the other rows go, and the padding that only they needed."""
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in indices]
        if not self.rows:
            self.clear()
            return
        chosen = torch.tensor(indices, device=self._model.device)
        mask = self._mask[chosen]
        trim = int(mask.any(0).int().argmax())  # positions before it are padding in every row
        self._mask = mask[:, trim:]
        for layer in self._cache.layers:
            layer.replace(layer.keys[chosen, :, trim:], layer.values[chosen, :, trim:])

    def clear(self) -> None:
        self.rows = []
        self._cache = new_cache()
        self._mask = self._mask.new_zeros((0, 0))


def _append(cache: Cache, other: Cache) -> None:
    """Add the rows of `other`, both padded on the left to the longer one. All or nothing, should memory run out."""
    joined = []
    for mine, new in zip(cache.layers, other.layers, strict=True):
        length = max(mine.get_seq_length(), new.get_seq_length())
        keys = torch.cat([_pad(mine.keys, length, 2), _pad(new.keys, length, 2)])
        values = torch.cat([_pad(mine.values, length, 2), _pad(new.values, length, 2)])
        joined.append((mine, keys, values))
    for layer, keys, values in joined:
        layer.replace(keys, values)


def _pad(tensor: torch.Tensor, length: int, dimension: int) -> torch.Tensor:
    """Zeros in front along `dimension`, up to `length`."""
    missing = length - tensor.shape[dimension]
    if missing <= 0:
        return tensor
    shape = list(tensor.shape)
    shape[dimension] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dimension)
