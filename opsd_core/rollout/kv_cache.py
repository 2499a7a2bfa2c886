"""Key and value caches for decoding: prefilled in groups of like length, joined, and grown in place.

B = sequences, A = key/value heads, P = positions, D = head size
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer


class RoomyLayer(DynamicLayer):
    """A layer (B, A, P, D) with room for the tokens to come: a step writes one column instead of copying all of them."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._all_keys = self._all_values = torch.empty(0)

    def take(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Hold these parts below each other, padded on the left; `room` positions can follow before anything is copied."""
        self.lazy_initialization(keys[0], values[0])
        self._all_keys, self._all_values = self._with_room(keys), self._with_room(values)
        self._show(self._all_keys.shape[-2] - self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append positions; returns the keys and values so far."""
        if not self.is_initialized:
            self.take([key_states], [value_states])
            return self.keys, self.values
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._all_keys.shape[-2]:
            self.take([self.keys], [self.values])
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these sequences, and the room."""
        length = self.get_seq_length()
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._show(length)

    def _with_room(self, parts: Sequence[Tensor]) -> Tensor:
        rows, width = sum(part.shape[0] for part in parts), max(part.shape[2] for part in parts)
        states = parts[0].new_zeros(rows, parts[0].shape[1], width + self._room, parts[0].shape[3])
        start = 0
        for part in parts:
            stop = start + part.shape[0]
            states[start:stop, :, width - part.shape[2] : width] = part
            start = stop
        return states

    def _show(self, length: int) -> None:
        self.keys, self.values = self._all_keys[:, :, :length], self._all_values[:, :, :length]


def new_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache that keeps all positions, also where a layer's window needs only the last: rows of several lengths can
    join it, and the mask hides what is outside the window."""
    cache = DynamicCache(config=config)
    cache.layers = [DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer for layer in cache.layers]
    return cache


def can_join(cache: DynamicCache) -> bool:
    """Whether every layer holds plain keys and values of all positions, or none of its own."""
    return all(type(layer) in (DynamicLayer, RoomyLayer, DummyLayer) for layer in cache.layers)


def join(parts: Sequence[DynamicCache], room: int, unused: int = 0) -> DynamicCache:
    """One cache of all sequences, padded on the left to the longest part, with `room` for decoding; `parts` are emptied.

    The first `unused` positions of the first part are left out. Padded positions hold zeros; the attention mask has to
    hide them.
    """
    joined = DynamicCache()
    for layers in zip(*(part.layers for part in parts), strict=True):
        if isinstance(layers[0], DummyLayer):
            joined.layers.append(layers[0])
            continue
        keys, values = ([getattr(part, name) for part in layers] for name in ("keys", "values"))
        layer = RoomyLayer(room)
        layer.take([keys[0][:, :, unused:], *keys[1:]], [values[0][:, :, unused:], *values[1:]])
        joined.layers.append(layer)
        for part in layers:  # a whole second copy of the cache would otherwise live until the last layer is joined
            vars(part).clear()
    return joined


def pad_left(masks_BP: Sequence[Tensor]) -> Tensor:
    """Masks of several parts as one, with zeros on the left up to the widest."""
    width = max(mask_BP.shape[1] for mask_BP in masks_BP)
    return torch.cat([torch.nn.functional.pad(mask_BP, (width - mask_BP.shape[1], 0)) for mask_BP in masks_BP])


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
