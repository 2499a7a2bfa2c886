"""Write a policy as a plain safetensors folder that holds what was trained, adapters merged.

Merged weights are made one module at a time and written in files of at most 5 GB, so that beside the policy one file's worth is
in memory, never a second model.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

from peft import PeftModel
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, revert_weight_conversion

from opsd_core.models.adapters import effective_weights
from opsd_core.models.storage.serving import Serving, write_serving
from opsd_core.models.storage.shards import MAX_BYTES, save_shards
from opsd_core.models.types import Policy


def save_policy(
    policy: Policy, folder: Path | str, serving: Serving | None = None, *, max_bytes: int = MAX_BYTES
) -> None:
    """Write the policy as a plain safetensors folder; the policy itself is not changed.

    Tensors have the names of the model's public checkpoints (experts one by one, as other programs read them). `serving`: what
    the policy is judged with, written into the folder's own files. `max_bytes` of a file of weights: `storage.shards`.
    """
    folder = Path(folder)
    tied = save_weights(policy.model, folder, max_bytes=max_bytes)
    model = policy.causal_lm
    _config(model, bool(tied)).save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    if serving is not None:
        write_serving(serving, policy, folder)


def save_weights(model: PreTrainedModel | PeftModel, folder: Path, *, max_bytes: int = MAX_BYTES) -> set[str]:
    """Write the weights alone, as `save_policy` does; names whose tensor is another name's, which are not written."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = _tied_names(model)
    save_shards(_stored(model, tied), folder, "model", max_bytes=max_bytes, metadata={"format": "pt"})
    return tied


def _stored(model: PreTrainedModel | PeftModel, tied: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Names and values as public checkpoints have them; all at once only where these have other tensors than the model."""
    weights = ((name, tensor) for name, tensor in effective_weights(model, exact=True) if name not in tied)
    if _is_converted(plain := _without_wrapper(model)):
        weights = iter(revert_weight_conversion(plain, dict(weights)).items())
    for name, tensor in weights:
        yield name, tensor.contiguous()


def _tied_names(model: PreTrainedModel | PeftModel) -> set[str]:
    """Names whose tensor is another name's, so that the model finds it there; with adapters on one of the two it is not."""
    pairs = dict(getattr(_without_wrapper(model), "all_tied_weights_keys", None) or {})
    wanted = {*pairs.keys(), *pairs.values()}
    held = {name: tensor for name, tensor in effective_weights(model) if name in wanted} if pairs else {}
    both = {name: source for name, source in pairs.items() if name in held and source in held}
    return {name for name, source in both.items() if held[name].data_ptr() == held[source].data_ptr()}


def _without_wrapper(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _is_converted(model: PreTrainedModel) -> bool:
    """Whether public checkpoints of this family hold other tensors than the model (experts one by one, for instance)."""
    known = getattr(model, "_weight_conversions", None) or get_model_conversion_mapping(model, add_legacy=False)
    return any(not isinstance(conversion, PrefixChange) for conversion in known)


def _config(model: PreTrainedModel, tied: bool) -> PretrainedConfig:
    """The model's configuration; it names the model's class, as servers need it, and tied embeddings only where they are."""
    config = model.config
    if not config.architectures:
        config = copy.deepcopy(config)
        config.architectures = [type(model).__name__]
    if getattr(config.get_text_config(), "tie_word_embeddings", False) and not tied:
        config = copy.deepcopy(config)
        for part in {id(c): c for c in (config, config.get_text_config())}.values():
            part.tie_word_embeddings = False
    return config
