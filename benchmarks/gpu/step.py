"""A distillation step: trained tokens per second, peak memory, and what plain forward and backward passes take."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.gpu.model import random_policy, random_prompts
from benchmarks.gpu.parts import Rows
from benchmarks.gpu.sizes import Size, best_of
from opsd_core.config import CampaignConfig, resolve
from opsd_core.models.policy import Policy
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.items import TrainingItem
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import objective


def rows(size: Size) -> Rows:
    """A row for an online step at the full vocabulary, one for plain cross-entropy of the same completions."""
    dtype = str(size.dtype).removeprefix("torch.")
    settings = {
        "control": True,
        "model": {"dtype": dtype, "device": size.device},
        "distillation": {"targets": "online"},
        "rollout": {"max_completion_length": size.length},
        "execution": {"gradient_checkpointing": size.device == "cuda"},
    }
    config = resolve("tiny", settings)
    student, teacher = random_policy(size, torch.float32), FixedTeacher(random_policy(size, size.dtype))
    items = items_of(size, student)
    optimizer = build_optimizer(list(student.model.parameters()), config.optimizer)

    def distil() -> None:
        _apply(objective(student, teacher, items, config).loss_sum / (size.batch * size.length), optimizer)

    def plain() -> None:
        _apply(_cross_entropy(student, items, config), optimizer)

    return [_timed(size, name, step) for name, step in {"opsd, forward KL, online": distil, "cross-entropy": plain}.items()]


def items_of(size: Size, policy: Policy) -> list[TrainingItem]:
    """A batch of completions of random tokens."""
    prompts, shown = random_prompts(size, policy), random_prompts(size, policy, 1)
    completions, ones = random_prompts(size, policy, 2), np.ones(size.length, np.float32)
    return [TrainingItem(*ids, 0 * ones, ones) for ids in zip(prompts, shown, completions, strict=True)]


def _cross_entropy(student: Policy, items: list[TrainingItem], config: CampaignConfig) -> torch.Tensor:
    """What a supervised trainer computes of the same completions: transformers' own loss, whole logits."""
    ids = torch.tensor([[*item.prompt_ids, *item.completion_ids] for item in items], device=student.device)
    labels = ids.clone()
    labels[:, : len(items[0].prompt_ids)] = -100
    with torch.autocast(student.device.type, torch.bfloat16, enabled=config.model.dtype == "bfloat16"):
        return student.model(input_ids=ids, labels=labels, use_cache=False).loss


def _apply(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _timed(size: Size, name: str, step: Callable[[], None]) -> dict[str, float | str]:
    best, tokens = best_of(size, step), size.batch * size.length
    if best is None:
        return {"step": name, "trained tokens/s": "out of memory", "ms": "", "peak GiB": "", "busy": ""}
    return {
        "step": name,
        "trained tokens/s": round(tokens / best.seconds),
        "ms": round(1e3 * best.seconds, 1),
        "peak GiB": round(best.peak / 2**30, 2),
        "busy": "" if best.busy is None else f"{best.busy:.0%}",
    }
