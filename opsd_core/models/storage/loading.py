"""Read a policy into memory; every tensor of the model has to come from the files, with its shape, and be finite."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import PrefixChange

from opsd_core.config import ModelConfig
from opsd_core.disk import hub_advice
from opsd_core.errors import ModelError, OpsdError
from opsd_core.models.attention import use_cpu_attention
from opsd_core.models.chat import chat_template
from opsd_core.models.cut import Cut, cutting, own_part, to_device
from opsd_core.models.devices import resolve_device, resolve_dtype
from opsd_core.models.storage.adapter_folders import base_of, merge_adapter
from opsd_core.models.storage.files import check_folder, check_not_quantised
from opsd_core.models.storage.headers import Stored
from opsd_core.models.tokenizers import first_line, load_tokenizer
from opsd_core.models.types import Policy

_BUFFERS = re.compile(
    r"(rotary_emb\.(inv_freq|cos_cached|sin_cached)|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias|position_ids)$"
)
"""Constants that older versions of transformers wrote beside the weights; the model computes them itself."""


def load_policy(
    folder: Path | str, config: ModelConfig, dtype: torch.dtype | None = None, cut: Cut | None = None
) -> Policy:
    """Load a safetensors folder, an adapter folder or a hub id for inference (eval mode, no dropout).

    `dtype` overrides the configured one (training keeps float32 weights). An adapter is merged into its base. The tokenizer gets
    model.chat_template where that is set. With `cut` it has this process' part of its weights, for FullySharded to lay out;
    where an adapter is merged, all of them. ModelError when anything is missing, unexpected, of another shape or not finite.
    """
    source = str(folder)
    options = {
        "revision": config.revision if not Path(source).is_dir() else None,
        "trust_remote_code": config.trust_remote_code,
    }
    base = base_of(source, options)
    kept = dtype or resolve_dtype(config)
    with cutting(None if base else cut):
        model = load_model(base.source, base.options, kept) if base else load_model(source, options, kept)
    tokenizer = _tokenizer(source, options, base)
    if base:
        model = merge_adapter(model, source, options)
    check_vocabulary(model, tokenizer, source)
    check_finite(model, source)
    if config.chat_template:
        tokenizer.chat_template = chat_template(tokenizer, config.chat_template)
    to_device(model.eval(), resolve_device(config))
    use_cpu_attention(model)
    return Policy(model, tokenizer)


def load_model(source: str, options: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder or hub id with all its tensors from there."""
    tensors = check_folder(Path(source)) if Path(source).is_dir() else {}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        check_not_quantised(config.to_dict(), source)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, with names
            output_loading_info=True,
            **options,
        )
    except (OpsdError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"model.source={source!r} cannot be loaded as a causal language model with safetensors weights: "
            f"{first_line(error)}. {_where(source)}Check the name or path; pickled weights (.bin) are refused."
            f"{'' if Path(source).is_dir() else hub_advice(error)}"
        ) from error
    check_report(report, source)
    check_numbers(model, tensors, source)
    conversions = [c for c in getattr(model, "_weight_conversions", None) or () if not isinstance(c, PrefixChange)]
    model._weight_conversions = conversions or None  # stored names are the class's own, whatever prefix the source had
    return model


def _where(source: str) -> str:
    """What a name was taken for that is no folder."""
    if Path(source).is_file():
        return "It is a file. load_gguf of opsd_core.models.policy reads a GGUF file; any other model is a folder. "
    return "" if Path(source).is_dir() else f"There is no folder {Path(source).absolute()}, so it was taken for a hub id. "


def check_report(report: dict[str, Any], source: str) -> None:
    """ModelError naming the first tensor that is missing, of another shape or not the model's, and how many there are."""
    missing = sorted(report["missing_keys"])
    wrong = sorted(report["mismatched_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not _BUFFERS.search(name))
    if wrong:
        name, stored, wanted = wrong[0]
        raise ModelError(
            f"{source}: tensor {name!r} has the shape {tuple(stored)}, config.json asks for {tuple(wanted)} "
            f"({len(wrong)} such tensors). Weights and config.json belong to different models, or vocab_size (or another size) "
            "in config.json is wrong."
        )
    if missing:
        hint = f" The files hold {unexpected[0]!r} instead: rename the tensors." if unexpected else ""
        raise ModelError(
            f"{source}: tensor {missing[0]!r} is missing ({len(missing)} in all); it would keep random values.{hint} Were the "
            "weights saved from a wrapped or compiled model (prefix 'module.' or '_orig_mod.'), or is a shard missing?"
        )
    if unexpected:
        raise ModelError(
            f"{source}: tensor {unexpected[0]!r} belongs to no part of the model ({len(unexpected)} in all), so it would be "
            "dropped silently. Weights and config.json belong to different models; an adapter needs adapter_config.json."
        )


def check_numbers(model: PreTrainedModel, tensors: Mapping[str, Stored], source: str) -> None:
    """ModelError when a weight is stored as whole numbers, which nothing would scale."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and name in tensors and not tensors[name].is_float:
            raise ModelError(
                f"{source}: tensor {name!r} is stored as {tensors[name].dtype}, a weight is a floating-point number. It is "
                "quantised without a quantization_config, or damaged: give the weights in float32, bfloat16 or float16."
            )


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """ModelError when the tokenizer has ids for which the model has no row."""
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise ModelError(
            f"{source}: the tokenizer has the id {largest} ({token!r}), the model's embedding only {rows} rows (vocab_size). The "
            "tokenizer belongs to another model, or tokens were added without resizing the embedding."
        )


@torch.no_grad()
def check_finite(model: PreTrainedModel, source: str) -> None:
    """ModelError naming the first tensor, of which this process has the part or the whole, that holds a NaN or an infinity."""
    for name, stored in model.state_dict(keep_vars=True).items():
        tensor = stored if (part := own_part(stored)) is None else part
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise ModelError(
                    f"{source}: tensor {name!r} holds values that are not finite (NaN or infinity). The training that made it "
                    "diverged, or it was written in a dtype too small for it. Give other weights."
                )


def _tokenizer(source: str, options: dict[str, Any], base: Any) -> PreTrainedTokenizerBase:
    """The folder's own tokenizer; an adapter folder without one has its base's."""
    if base is None:
        return load_tokenizer(source, **options)
    try:
        return load_tokenizer(source, **options)
    except ModelError:
        return load_tokenizer(base.source, **base.options)


def hub_commit(config: ModelConfig) -> str | None:
    """The hub's commit behind a hub id that was loaded; None where the source is no hub id."""
    if Path(config.source).exists():
        return None
    try:
        file = try_to_load_from_cache(config.source, "config.json", revision=config.revision)
    except HFValidationError:
        return None
    return Path(file).parent.name if isinstance(file, str) else None
