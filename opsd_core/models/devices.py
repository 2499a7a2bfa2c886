"""Where and in which precision a policy computes: what was asked for, what machines offer, and what that comes to.

`auto` is settled once, at a campaign's start (`settled`), so that every later stage computes the same identities wherever it
runs. What still says `auto`, as outside of a campaign, stands for what this machine offers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from opsd_core.config import ModelConfig
from opsd_core.errors import ConfigError
from opsd_core.objective.products import cpu_multiplies_bfloat16

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Offer:
    """What a machine has."""

    cuda: bool
    bfloat16: tuple[str, ...] = ()
    """Of "cpu" and "cuda" those that multiply it natively."""
    engines: tuple[str, ...] = ("transformers",)
    """What can sample rollouts (execution.engine)."""


def offer_here() -> Offer:
    """What this process can use."""
    cuda = torch.cuda.is_available()
    native = {
        "cpu": cpu_multiplies_bfloat16(),
        "cuda": cuda and torch.cuda.is_bf16_supported(),
    }
    return Offer(cuda, tuple(name for name, has in native.items() if has))


def settled(config: ModelConfig, offers: Mapping[str, Offer]) -> ModelConfig:
    """`config` with a device and a dtype in place of `auto`: the best that every one of the machines `offers` has.

    ConfigError by the name of the one that lacks a CUDA device which model.device asks for.
    """
    lacking = [name for name, offer in offers.items() if not offer.cuda]
    if config.device == "cuda" and lacking:
        raise ConfigError(
            f"model.device=cuda, but torch sees no CUDA device {lacking[0]}. Set model.device=auto or cpu, or have the work done "
            "where there is one: execution.placement=workers and a pool of GPU workers in execution.pools."
        )
    device = config.device if config.device != "auto" else ("cpu" if lacking else "cuda")
    native = all(device in offer.bfloat16 for offer in offers.values())
    dtype = config.dtype if config.dtype != "auto" else ("bfloat16" if native else "float32")
    return config.model_copy(update={"device": device, "dtype": dtype})


def resolve_device(config: ModelConfig) -> torch.device:
    """The device to compute on. ConfigError when cuda is asked for and there is none."""
    here = Offer(torch.cuda.is_available())
    return torch.device(settled(config.model_copy(update={"dtype": "float32"}), {"here": here}).device)


def resolve_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype for sampling and scoring: bfloat16 only where the hardware multiplies it natively."""
    return _DTYPES[config.dtype if config.dtype != "auto" else settled(config, {"here": offer_here()}).dtype]


def training_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype to load a student in: float32 where its weights learn, model.lora.base_dtype where adapters do."""
    return _DTYPES[config.lora.base_dtype] if config.lora.rank else torch.float32


def dtype_identity(config: ModelConfig) -> str:
    """model.dtype as a part of identities: "float32" or "bfloat16", whether it was named or settled."""
    return str(resolve_dtype(config)).removeprefix("torch.")
