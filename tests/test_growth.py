"""pytest tests/test_growth.py — work grows in proportion to tokens and prompts, no tensor grows with them: counts, not times."""

import pytest
import torch

from benchmarks.gpu.model import random_policy, random_prompts
from benchmarks.gpu.sizes import CPU
from benchmarks.growth.work import Work
from benchmarks.peers.own_step import items_of
from opsd_core.config import resolve
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import train_step


def policy_and_rows(rows, length):
    size = CPU._replace(batch=rows, length=length)
    policy = random_policy(size._replace(length=256), torch.float32)
    return policy, [random_prompts(size, policy, seed) for seed in range(3)]


def step(rows, length, targets):
    """Work of one optimiser step on `rows` completions."""
    policy, columns = policy_and_rows(rows, length)
    teacher, _ = policy_and_rows(rows, length)
    execution = {"microbatch_tokens": 128}
    distillation = {"targets": "online", "top_k_of": targets}
    config = resolve("tiny", {"control": True, "distillation": distillation, "execution": execution})
    items = items_of(dict(zip(("prompts", "teacher_prompts", "completions"), columns, strict=True)), length)
    optimizer = build_optimizer(list(policy.model.parameters()), config.optimizer)
    with Work() as work:
        train_step(policy, FixedTeacher(teacher), items, optimizer, config, 0)
    return work


def rollouts(rows, length):
    """Work of sampling `rows` prompts, eight at a time."""
    policy, (prompts, *_) = policy_and_rows(rows, length)
    sampling = Sampling(temperature=1.0, max_completion_length=length, record_top_k=4)
    with Work() as work:
        generate(policy, prompts, list(range(rows)), sampling, 8)
    return work


@pytest.mark.parametrize("targets", ["full", "student"])
def test_a_step_of_twice_the_completions_is_twice_the_work_in_the_same_memory(targets):
    one, two, four = (step(rows, 16, targets) for rows in (8, 16, 32))
    assert two.multiplications == pytest.approx(2 * one.multiplications, rel=0.01)
    assert four.multiplications == pytest.approx(4 * one.multiplications, rel=0.01)
    assert one.largest == two.largest == four.largest


def test_a_step_of_twice_the_length_is_twice_the_work_but_for_attention():
    one, two = step(8, 16, "full"), step(8, 32, "full")
    assert 2 * one.multiplications <= two.multiplications < 2.2 * one.multiplications


def test_rollouts_of_twice_the_prompts_are_at_most_twice_the_work_in_the_same_memory():
    """Less than in proportion where prompts that wait take the places of those that have ended."""
    one, two, four = (rollouts(rows, 16) for rows in (16, 32, 64))
    assert two.multiplications <= 2.02 * one.multiplications
    assert four.multiplications <= 4.04 * one.multiplications
    assert four.largest <= 1.1 * one.largest


def test_work_is_counted():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with Work() as work:
        a @ b
    assert (work.multiplications, work.largest) == (60, 15)
