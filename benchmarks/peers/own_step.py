"""A distillation step of opsd's trainer: both sides' passes, the divergence, backward pass and optimiser."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.arm import Spec, inputs, main
from benchmarks.peers.clock import Cost, cost_of
from opsd_core.config import CampaignConfig, resolve
from opsd_core.models.policy import load_policy
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.checkpoint import trainable_parameters
from opsd_core.training.items import TrainingItem
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import train_step

MODES: dict[str, dict[str, Any]] = {
    "full": {"top_k_of": "full"},
    "top_k": {"top_k_of": "student", "top_k": 100},
    "adapters": {"top_k_of": "full"},
}


def settings(spec: Spec) -> CampaignConfig:
    """Forward KL without a bound, at temperature 1."""
    lora = {"rank": 16, "alpha": 32, "base_dtype": spec["dtype"]} if spec["mode"] == "adapters" else {"rank": 0}
    return resolve(
        "base",
        {
            "model": {"source": "smollm2", "dtype": spec["dtype"], "device": "cpu", "lora": lora},
            "data": {"source": "reasoning_gym:chain_sum"},
            "distillation": {"targets": "online", "bound": "none"} | MODES[spec["mode"]],
            "rollout": {"max_completion_length": spec["length"]},
            "optimizer": {"learning_rate": 1e-5, "beta2": 0.999},
            "execution": {"microbatch_tokens": 2048},
        },
    )


def items_of(given: dict[str, Any], length: int, rows: int | None = None) -> list[TrainingItem]:
    """The first `rows` rows, or all, as a step takes them."""
    columns = zip(given["prompts"], given["teacher_prompts"], given["completions"], strict=True)
    ones = np.ones(length, np.float32)
    return [TrainingItem(*row, 0 * ones - 1, ones) for row in columns][:rows]


def measured(spec: Spec) -> tuple[Cost, int, float]:
    """The second step's cost, its trained tokens, and the first step's loss."""
    config, given = settings(spec), inputs(spec)
    folder = Path(spec["folder"]) / "model"
    student = load_policy(folder, config.model, torch.float32)
    teacher = FixedTeacher(load_policy(folder, config.model.model_copy(update={"lora": type(config.model.lora)()})))
    items = items_of(given, spec["length"], spec.get("rows"))
    optimizer = build_optimizer(list(trainable_parameters(student).values()), config.optimizer)
    first = train_step(student, teacher, items, optimizer, config, 0)
    cost = cost_of(lambda: train_step(student, teacher, items, optimizer, config, 1))
    return cost, len(items) * spec["length"], first["distillation/loss"]


if __name__ == "__main__":
    main(measured)
