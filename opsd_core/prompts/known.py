"""Prompts that were made lately, as many as fit: what one stage made, the next one asks for again."""

from array import array
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping

_MOST_TOKENS = 4_000_000
"""Of all prompts together, 4 bytes each."""


class KnownPrompts(MutableMapping[str, list[int]]):
    """Token ids by example id; beyond `most_tokens` the ones that were made first are forgotten."""

    def __init__(self, most_tokens: int = _MOST_TOKENS) -> None:
        self._most, self._tokens = most_tokens, 0
        self._held: OrderedDict[str, array[int]] = OrderedDict()

    def __getitem__(self, example_id: str) -> list[int]:
        return self._held[example_id].tolist()

    def __setitem__(self, example_id: str, ids: list[int]) -> None:
        self._forget(example_id)
        self._held[example_id] = array("i", ids)
        self._tokens += len(ids)
        while self._tokens > self._most and self._held:
            del self[next(iter(self._held))]

    def __delitem__(self, example_id: str) -> None:
        self._tokens -= len(self._held.pop(example_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def _forget(self, example_id: str) -> None:
        if example_id in self._held:
            del self[example_id]
