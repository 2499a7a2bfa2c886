"""Where and in which precision a policy computes."""

import torch

from opsd_core.config import ModelConfig
from opsd_core.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(config: ModelConfig) -> torch.device:
    """The device to compute on. ConfigError when cuda is asked for and there is none."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError("model.device=cuda, but torch sees no CUDA device. Set model.device=auto or cpu.")
    return torch.device("cuda" if config.device != "cpu" and available else "cpu")


def resolve_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype for sampling and scoring: bfloat16 only where the hardware multiplies it natively."""
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    if resolve_device(config).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def training_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype to load a student in: float32 where its weights learn, model.lora.base_dtype where adapters do."""
    return _DTYPES[config.lora.base_dtype] if config.lora.rank else torch.float32


def dtype_identity(config: ModelConfig) -> str:
    """model.dtype as a part of identities: what it stands for on this hardware; "auto" where that is float32."""
    resolved = resolve_dtype(config)
    return config.dtype if resolved is torch.float32 else str(resolved).removeprefix("torch.")
