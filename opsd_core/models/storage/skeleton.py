"""A stored model without its weights: what its configuration says, and whether adapters would fit it."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from opsd_core.config import ModelConfig
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.adapters import adapted
from opsd_core.models.chat import chat_template
from opsd_core.models.tokenizers import first_line, load_tokenizer
from opsd_core.models.types import Policy


def stored_config(folder: Path, config: ModelConfig) -> PretrainedConfig:
    """The configuration of a stored model. ModelError when it cannot be read."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(f"{folder}: config.json cannot be read: {first_line(error)}.") from error


def check_targets(folder: Path, config: ModelConfig) -> None:
    """ConfigError when model.lora.target_modules names layers that the stored model does not have or no adapter fits."""
    settings = stored_config(folder, config)
    try:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(settings, trust_remote_code=config.trust_remote_code)
    except Exception:  # an architecture that cannot be made without memory; what is wrong is said when it is loaded
        return
    try:
        adapted(skeleton, config.lora, seed=0)
    except ConfigError as error:
        if not isinstance(error.__cause__, NotImplementedError):  # which is what tensors without memory raise
            raise
    except RuntimeError:  # or this
        return


def outline(folder: Path, config: ModelConfig) -> Policy:
    """A stored policy without its weights: tokenizer, end tokens, shapes. ModelError when it cannot be made.

    It can be asked for what prompts and items need, and for sizes; not for numbers.
    """
    tokenizer = load_tokenizer(folder)
    if config.chat_template:
        tokenizer.chat_template = chat_template(tokenizer, config.chat_template)
    settings = stored_config(folder, config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings, trust_remote_code=config.trust_remote_code)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"{folder}: this architecture cannot be made without its weights ({first_line(error)}), which execution.ranks above "
            "1 needs. Set execution.ranks=1."
        ) from error
    return Policy(model, tokenizer)
