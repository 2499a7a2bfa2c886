"""Text of users becomes tokens of text: a control token's name in a question stays a name.

Where a value holds the name of a control token (`<|im_end|>`), `shielded` puts a noncharacter into it, so that no tokenizer
takes it for the token; `encode` drops what the tokenizer makes of that noncharacter. Other text is encoded as it always is.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from opsd_core.errors import DataError

MARK = "\ufdd0"
"""A code point that Unicode reserves for a program's own use."""


@lru_cache(maxsize=16)
def _control_names(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> re.Pattern[str] | None:
    """Names of special tokens, and of added tokens that the chat template writes (`<think>`); not of added words or spaces."""
    added = tokenizer.added_tokens_decoder.values()
    names = {token.content for token in added if token.special or token.content in template} | set(tokenizer.all_special_tokens)
    names = {name for name in names if len(name) > 1 and name.strip()}
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))) if names else None


def shielded(tokenizer: PreTrainedTokenizerBase, text: str, template: str | None = None) -> str:
    """The text with a mark inside each control token's name. DataError when it holds the mark itself."""
    if MARK in text:
        raise DataError(f"a text holds the noncharacter U+FDD0, which opsd uses itself: {text!r:.120}. Remove it from the data.")
    pattern = _control_names(tokenizer, template or "", len(tokenizer))
    while pattern is not None and pattern.search(text):
        text = pattern.sub(lambda found: f"{found[0][0]}{MARK}{found[0][1:]}", text)
    return text


def shielded_values(
    tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any], template: str | None = None
) -> dict[str, Any]:
    """A template's variables with every text among them shielded."""
    return {
        name: shielded(tokenizer, value, template) if isinstance(value, str) else value
        for name, value in variables.items()
    }


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text in which user text is shielded, without begin- and end-of-sequence tokens."""
    if MARK not in text:
        return list(tokenizer.encode(text, add_special_tokens=False))
    ids = _without_marks(tokenizer, text) if tokenizer.is_fast else None
    if ids is not None:
        return ids
    return [token for part in text.split(MARK) if part for token in tokenizer.encode(part, add_special_tokens=False)]


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a user's text alone."""
    return encode(tokenizer, shielded(tokenizer, text))


def _without_marks(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | None:
    """Ids but for those of the marks; None where a mark has no token of its own."""
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except Exception:  # a vocabulary without an unknown token may refuse the mark
        return None
    kept, seen = [], set()
    for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        marks = {place for place in range(start, stop) if text[place] == MARK}
        if not marks:
            kept.append(token)
        elif len(marks) < stop - start:
            return None
        seen |= marks
    return kept if len(seen) == text.count(MARK) else None
