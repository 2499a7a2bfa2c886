"""AdamW and a learning-rate schedule over the whole campaign."""

import math
from collections.abc import Iterable

import torch

from opsd_core.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The rate of optimiser step `step` (0-based) of `total_steps` in the campaign, all iterations together.

    warm-up   lr * (step + 1) / warmup                       for step < warmup
    constant  lr
    linear    lr * (1 - (1 - f) * x)                         x = progress after warm-up in [0, 1]
    cosine    lr * (f + (1 - f) * (1 + cos(pi * x)) / 2)     f = final_fraction
    """
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    floor = config.final_fraction
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "linear":
        return config.learning_rate * (1.0 - (1.0 - floor) * progress)
    return config.learning_rate * (floor + (1.0 - floor) * (1.0 + math.cos(math.pi * progress)) / 2.0)


def build_optimizer(parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; the rate is set before every step."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
