"""Privileged text that shows up in a completion: what the policy cannot know, it must not learn to say.

A leak is a run of at least n consecutive tokens (or words) that the privileged side holds and the public side does not.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

import numpy as np

_WORD = re.compile(r"\w+")


def copied_positions(
    completion: Sequence[Hashable],
    private: Sequence[Hashable],
    public: Iterable[Sequence[Hashable]],
    length: int,
) -> np.ndarray:
    """Mask (T,) of the completion's positions inside a run of `length` items that is in `private` and in no `public`.

    The final answer and the student's own prompt are public: repeating them is not a leak.
    """
    leaked = _grams(private, length)
    for sequence in public:
        leaked -= _grams(sequence, length)
    copied_T = np.zeros(len(completion), bool)
    for start in range(len(completion) - length + 1):
        if tuple(completion[start : start + length]) in leaked:
            copied_T[start : start + length] = True
    return copied_T


def leaks_text(text: str, private: str, public: str, num_words: int, phrases: Sequence[str]) -> bool:
    """True when `text` matches a phrase, or copies `num_words` words in a row (0 = phrases only)."""
    if any(pattern.search(text) for pattern in _patterns(tuple(phrases))):
        return True
    if not num_words or not private:
        return False
    return bool(copied_positions(_words(text), _words(private), [_words(public)], num_words).any())


def _grams(sequence: Sequence[Hashable], length: int) -> set[tuple]:
    return {tuple(sequence[start : start + length]) for start in range(len(sequence) - length + 1)}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@lru_cache(maxsize=16)
def _patterns(phrases: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(phrase, re.IGNORECASE) for phrase in phrases)
