"""Write a policy as a plain safetensors folder that holds what was trained, adapters merged."""

import copy
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from opsd_core.models.adapters import effective_weights
from opsd_core.models.storage.serving import Serving, write_serving
from opsd_core.models.types import Policy

WEIGHTS = "model.safetensors"


def save_policy(policy: Policy, folder: Path | str, serving: Serving | None = None) -> None:
    """Write the policy as a plain safetensors folder; the policy itself is not changed.

    Tensors have the names of the model's public checkpoints (experts one by one, as other programs read them). `serving`: what
    the policy is judged with, written into the folder's own files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.causal_lm
    weights = dict(effective_weights(policy.model))
    tied = _tied_names(model, weights)
    stored = revert_weight_conversion(model, {name: tensor for name, tensor in weights.items() if name not in tied})
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    _config(model, bool(tied)).save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    if serving is not None:
        write_serving(serving, policy, folder)


def _tied_names(model: PreTrainedModel, weights: dict[str, Tensor]) -> set[str]:
    """Names whose tensor is another name's, so that the model finds it there; with adapters on one of the two it is not."""
    pairs = dict(getattr(model, "all_tied_weights_keys", None) or {})
    return {
        name
        for name, source in pairs.items()
        if name in weights and source in weights and weights[name].data_ptr() == weights[source].data_ptr()
    }


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
