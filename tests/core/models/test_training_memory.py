"""pytest tests/core/models/test_training_memory.py — the plan of a distillation's memory against bytes that were counted."""

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

from opsd_core.config import resolve
from opsd_core.models.checkpointing import checkpoint_gradients
from opsd_core.models.memory import Shape, plan_training
from opsd_core.models.policy import Policy, add_lora, training_dtype
from opsd_core.teacher.teachers import EmaTeacher, FixedTeacher, LiveTeacher
from opsd_core.training.checkpoint import trainable_parameters
from opsd_core.training.items import TrainingItem
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import train_step
from tests.core.models.live_bytes import LiveBytes
from tests.core.small import small_tokenizer

LENGTH, ITEMS = 64, 8
TOKENS = LENGTH * ITEMS


def policy(dtype=torch.float32):
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4, pad_token_id=0,
        num_key_value_heads=4, max_position_embeddings=LENGTH, eos_token_id=0, bos_token_id=None, tie_word_embeddings=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    return Policy(LlamaForCausalLM(config).eval().to(dtype), tokenizer)


def items():
    ids = np.random.default_rng(0).integers(2, 40, (ITEMS, LENGTH))
    ones_T = np.ones(LENGTH - 8, np.float32)
    return [
        TrainingItem(row[:8].tolist(), row[7::-1].tolist(), row[8:].tolist(), ones_T * 0, ones_T, key=("e", i))
        for i, row in enumerate(ids)
    ]


CASES = {
    "full": ({}, "initial", False),
    "full, average": ({}, "ema", False),
    "full, computed again": ({}, "initial", True),
    "adapters": ({"lora": {"rank": 8}}, "initial", False),
    "adapters, teaching themselves": ({"lora": {"rank": 8}}, "live", False),
    "adapters on bfloat16": ({"lora": {"rank": 8, "base_dtype": "bfloat16"}}, "live", True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_what_was_planned(name):
    """Two steps: moments exist from the first on. Within 15 %, on either side."""
    model, weights, again = CASES[name]
    settings = resolve(
        "tiny", {"control": True, "distillation": {"targets": "online"}},
        {"model": {"dtype": "float32", "device": "cpu"} | model, "teacher": {"weights": weights}},
    )  # fmt: skip
    student = policy(training_dtype(settings.model))
    shape = Shape.of(student)
    if settings.model.lora.rank:
        student = add_lora(student, settings.model.lora, 1)
    if again:
        checkpoint_gradients(student)
    made = {"initial": lambda: FixedTeacher(policy()), "ema": lambda: EmaTeacher(copy.deepcopy(policy()), 0.9)}
    teacher = made[weights]() if weights in made else LiveTeacher(student)
    optimizer = build_optimizer(trainable_parameters(student).values(), settings.optimizer)
    held = [p for made in (student, *teacher.policies) for p in made.model.parameters()]
    with LiveBytes(*held) as live:
        for step in range(2):
            train_step(student, teacher, items(), optimizer, settings, step)
    planned = plan_training(shape, settings, tokens=TOKENS, checkpointing=again)
    print(f"{name:32} planned {planned.tensors / 1e6:6.1f} MB counted {live.peak / 1e6:6.1f} MB", planned)
    assert planned.tensors == pytest.approx(live.peak, rel=0.15)


def qwen3(hidden, layers, intermediate, heads, tied):
    return Qwen3Config(
        vocab_size=151_936, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=intermediate,
        num_attention_heads=heads, num_key_value_heads=8, head_dim=128, tie_word_embeddings=tied,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (qwen3(1024, 28, 3072, 16, True), 0.596),
        (qwen3(2048, 28, 6144, 16, True), 1.72),
        (qwen3(4096, 36, 12288, 32, False), 8.19),
        (qwen3(5120, 64, 25600, 64, False), 32.76),
    ],
)
def test_shapes_come_from_a_configuration_alone(config, billions):
    """Published numbers of parameters of Qwen3 0.6B, 1.7B, 8B and 32B."""
    assert Shape.of_config(config).parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_parts_shrink_with_the_number_of_processes_and_copies_do_not():
    shape = Shape.of_config(qwen3(4096, 36, 12288, 32, False))
    settings = resolve("tiny", {"model": {"dtype": "bfloat16"}})
    one = plan_training(shape, settings, tokens=8192)
    copies = plan_training(shape, settings, tokens=8192, ranks=8, parallel="ddp")
    parts = plan_training(shape, settings, tokens=8192, ranks=8, parallel="fsdp")
    assert one.student == copies.student == 4 * shape.parameters and copies.moving == 4 * shape.parameters
    assert parts.student == one.student // 8 and parts.learning == one.learning // 8
    assert parts.tensors < one.tensors < copies.tensors
