"""What a model does to its logits after the output projection:

    logits = cap(scale (hidden @ weight^T + bias)),   cap(x) = softcap * tanh(x / softcap)

Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, Falcon-H1 by `lm_head_multiplier`, Gemma caps. A setting
counts where the model's code uses it on logits: MiniCPM divides its hidden states by one of the same name.
"""

import inspect
from functools import cache

from transformers import PreTrainedModel

_MULTIPLIERS = ("logit_scale", "lm_head_multiplier")
_DIVISORS = ("logits_scaling",)
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def logit_scale(model: PreTrainedModel) -> float:
    """What logits are multiplied by; 1 for most models."""
    scale = 1.0
    for name in _MULTIPLIERS:
        scale *= _used(model, name) or 1.0
    for name in _DIVISORS:
        scale /= _used(model, name) or 1.0
    return scale


def logit_softcap(model: PreTrainedModel) -> float | None:
    """The limit that logits are bent to; None for most models."""
    return next((cap for name in _CAPS if (cap := _used(model, name))), None)


def _used(model: PreTrainedModel, name: str) -> float | None:
    """The setting's value where the code names it behind the line that makes the logits; multimodal models nest settings."""
    for part in (model.config.get_text_config(decoder=True), model.config):
        value = getattr(part, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if name in _behind_logits(type(model)) else None
    return None


@cache
def _behind_logits(kind: type[PreTrainedModel]) -> str:
    """The code of the model's class from where it first sets `logits`; all names where there is no source to read."""
    try:
        code = inspect.getsource(kind)
    except (OSError, TypeError):
        return " ".join((*_MULTIPLIERS, *_DIVISORS, *_CAPS))
    return code.partition("logits = ")[2]
