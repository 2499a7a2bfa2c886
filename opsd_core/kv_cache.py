"""Key and value caches for decoding: prefilled in groups of like length, joined, and grown in place.

B = sequences, A = key/value heads, P = positions, D = head size
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer (B, A, P, D) with room for the tokens to come: a step writes one column instead of copying all of them."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._all_keys = self._all_values = torch.empty(0)

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Take the prefilled positions; `room` more can follow before anything is copied."""
        self.lazy_initialization(keys, values)
        self._all_keys, self._all_values = self._with_room(keys), self._with_room(values)
        self._show(keys.shape[-2])

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append positions; returns the keys and values so far."""
        if not self.is_initialized:
            self.fill(key_states, value_states)
            return self.keys, self.values
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._all_keys.shape[-2]:
            self.fill(self.keys, self.values)
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these sequences, and the room."""
        length = self.get_seq_length()
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._show(length)

    def _with_room(self, states: Tensor) -> Tensor:
        room = states.new_zeros(*states.shape[:2], self._room, states.shape[3])
        return torch.cat([states, room], dim=2)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._all_keys[:, :, :length], self._all_values[:, :, :length]


def can_join(cache: DynamicCache) -> bool:
    """Whether every layer holds plain keys and values of all positions (a sliding window does not)."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def join(parts: Sequence[DynamicCache], room: int) -> DynamicCache:
    """One cache of all sequences, padded on the left to the longest part, with `room` for decoding.

    Padded positions hold zeros; the attention mask has to hide them.
    """
    joined = DynamicCache()
    for layers in zip(*(part.layers for part in parts), strict=True):
        layer = RoomyLayer(room)
        layer.fill(_stack([part.keys for part in layers]), _stack([part.values for part in layers]))
        joined.layers.append(layer)
        for part in layers:
            part.reset()  # a whole second copy of the cache would otherwise live until the last layer is joined
    return joined


def _stack(states: Sequence[Tensor]) -> Tensor:
    width = max(part.shape[-2] for part in states)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, width - part.shape[-2], 0)) for part in states])


def like_lengths(lengths: Sequence[int], max_padding: float = 0.15, min_tokens: int = 128) -> list[slice]:
    """Cut sorted lengths into groups of at least `min_tokens` that pad by at most `max_padding` where they can."""
    groups, start, tokens = [], 0, 0
    for index, length in enumerate(lengths):
        padded = length * (index - start + 1)
        if tokens >= min_tokens and padded > (1 + max_padding) * (tokens + length):
            groups.append(slice(start, index))
            start, tokens = index, 0
        tokens += length
    return [*groups, slice(start, len(lengths))]
