"""Tokenizers: load one, tell whether two are the same, and the tokens that end a completion."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from opsd_core.digest import digest
from opsd_core.disk import hub_advice
from opsd_core.errors import ModelError
from opsd_core.models.chat import turn_end


def load_tokenizer(folder: Path | str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; `options` as in transformers. ModelError when there is none or it is damaged."""
    try:
        return AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # the library raises whatever its parsers raise
        path = Path(folder)
        only = (path / "tokenizer.model").is_file() and not (path / "tokenizer.json").is_file()
        why = "tokenizer.model is damaged or of another format than sentencepiece's" if only else first_line(error)
        raise ModelError(
            f"{str(folder)!r} holds no tokenizer that can be read: {why}. A model needs tokenizer.json, or "
            "tokenizer.model or vocab.json with merges.txt, beside its weights."
            f"{'' if path.is_dir() else hub_advice(error)}"
        ) from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identity of the vocabulary and special tokens."""
    return digest({"vocabulary": tokenizer.get_vocab(), "special": sorted(tokenizer.all_special_ids)})


def eos_ids(tokenizer: PreTrainedTokenizerBase, generation_eos: int | list[int] | None) -> tuple[int, ...]:
    """All token ids that end a completion: the tokenizer's, the model's own and the chat template's end of a turn."""
    declared = generation_eos if isinstance(generation_eos, list | tuple) else [generation_eos]
    ids = {token for token in [tokenizer.eos_token_id, turn_end(tokenizer), *declared] if token is not None}
    if not ids:
        raise ModelError(
            "neither the tokenizer, its chat template nor the generation config names an end-of-sequence token. Set eos_token "
            "in tokenizer_config.json or eos_token_id in generation_config.json of model.source."
        )
    return tuple(sorted(ids))


def known_ids(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> tuple[int, ...]:
    """Those ids for which the tokenizer has a token; no other can be written."""
    return tuple(token for token in ids if tokenizer.convert_ids_to_tokens(token) is not None)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 300 characters; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(". ") if lines else type(error).__name__
