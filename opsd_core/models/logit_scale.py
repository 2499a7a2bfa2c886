"""What models do to logits after the output projection, as their configurations say it:

    logits = cap(scale (hidden @ weight^T + bias)),   cap(x) = softcap * tanh(x / softcap)

Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, Falcon-H1 by `lm_head_multiplier`, Gemma caps.
"""

from transformers import PretrainedConfig

_MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "logits_multiplier")
_DIVISORS = ("logits_scaling",)
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def logit_scale(config: PretrainedConfig) -> float:
    """What logits are multiplied by; 1 for most models."""
    scale = 1.0
    for name in _MULTIPLIERS:
        scale *= _number(config, name) or 1.0
    for name in _DIVISORS:
        scale /= _number(config, name) or 1.0
    return scale


def logit_softcap(config: PretrainedConfig) -> float | None:
    """The limit that logits are bent to; None for most models."""
    return next((cap for name in _CAPS if (cap := _number(config, name))), None)


def _number(config: PretrainedConfig, name: str) -> float | None:
    """Of the text part: multimodal models keep it nested."""
    for part in (config.get_text_config(decoder=True), config):
        value = getattr(part, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
