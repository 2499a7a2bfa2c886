"""The two sizes of every measurement: one for a GPU, one that proves the same code on a CPU in seconds."""

from typing import NamedTuple

import torch


class Size(NamedTuple):
    """What is measured."""

    device: str
    dtype: torch.dtype
    hidden: int
    vocabulary: int
    tokens: tuple[int, ...]
    """Numbers of tokens of one call of the objective."""
    layers: int
    heads: tuple[int, int]
    """Query heads, key and value heads, of 128 channels each on a GPU."""
    batch: int
    """Completions in a step and in a batch of rollouts."""
    length: int
    """Tokens of a completion; a prompt has as many."""
    repeats: int
    campaign_items: int


GPU = Size("cuda", torch.bfloat16, 4096, 128_256, (1024, 8192), 28, (16, 8), 32, 256, 5, 2000)
"""The objective at the size of Llama-3-8B's head; steps and rollouts of Qwen3-1.7B's shape."""
CPU = Size("cpu", torch.float32, 64, 512, (32,), 2, (2, 1), 4, 8, 2, 400)


def synchronize(size: Size) -> None:
    """Wait until the device has done what it was asked for."""
    if size.device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(size: Size) -> int:
    """Most memory of the device since `reset_peak`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if size.device == "cuda" else 0


def reset_peak(size: Size) -> None:
    """Begin to count `peak_bytes` again."""
    if size.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
