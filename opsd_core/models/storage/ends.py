"""The end tokens of a stored model, without its weights."""

from functools import lru_cache
from pathlib import Path

from transformers import AutoConfig, GenerationConfig

from opsd_core.config import ModelConfig
from opsd_core.errors import ModelError
from opsd_core.models.chat import chat_template
from opsd_core.models.tokenizers import eos_ids, first_line, known_ids, load_tokenizer


def stored_ends(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """What `opsd_core.teacher.ends.ends_of` finds of the loaded policy. ModelError when a file cannot be read."""
    return _stored_ends(str(folder), config.chat_template, config.trust_remote_code)


@lru_cache(maxsize=32)
def _stored_ends(folder: str, template: str | None, trusted: bool) -> tuple[int, ...]:
    tokenizer = load_tokenizer(folder)
    if template:
        tokenizer.chat_template = chat_template(tokenizer, template)
    try:
        if (Path(folder) / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(folder)
        else:
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, trust_remote_code=trusted))
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(f"{folder}: the end tokens of the generation config cannot be read: {first_line(error)}.") from error
    return known_ids(tokenizer, eos_ids(tokenizer, generation.eos_token_id))
