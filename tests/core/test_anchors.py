"""References among the samples and the pull of the initial policy, against float64: pytest tests/core/test_anchors.py"""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from opsd_core.anchors import Anchors, gold_batch_size, gold_item, own_batch_size
from opsd_core.config import resolve
from opsd_core.errors import ConfigError
from opsd_core.models import Policy, add_lora, effective_weights
from opsd_core.optim import build_optimizer
from opsd_core.prompts import PromptBuilder
from opsd_core.teachers import AdapterOffTeacher, FixedTeacher
from opsd_core.trainer import Schedule, distil, train_step
from opsd_core.types import Example
from tests.core.small import small_policy
from tests.core.test_trainer import config, items

GOLD = [Example("a", "3+4=", "70", ""), Example("b", "what?", "that is a long answer", "")]


def logits(model, item):
    ids = torch.tensor([item.prompt_ids + item.completion_ids])
    return model(input_ids=ids).logits[0, len(item.prompt_ids) - 1 : -1]


def expected(student, initial, teacher, batch, gold, settings):
    """The whole loss in float64 over whole logits, by autograd: forward KL, the pull and the references."""
    distillation = settings.distillation
    policies = [student, initial, teacher]
    student, initial, teacher = (copy.deepcopy(policy.causal_lm).double() for policy in policies)
    kl = lambda p, q: (p.exp() * (p - q)).sum(-1)  # noqa: E731
    total, pull, weight, nll, tokens = 0.0, 0.0, 0.0, 0.0, 0
    for item in batch:
        s, s0 = (torch.log_softmax(logits(model, item), -1) for model in (student, initial))
        t = torch.log_softmax(
            teacher(input_ids=torch.tensor([item.teacher_prompt_ids + item.completion_ids])).logits[
                0, len(item.teacher_prompt_ids) - 1 : -1
            ],
            -1,
        )
        weights = torch.from_numpy(item.weights_T).double()
        total, pull = total + (weights * kl(t.detach(), s)).sum(), pull + (weights * kl(s, s0.detach())).sum()
        weight += weights.sum()
    for item in gold:
        nll = nll + functional.cross_entropy(logits(student, item), torch.tensor(item.completion_ids), reduction="sum")
        tokens += len(item.completion_ids)
    loss = (total + distillation.initial_kl * pull) / weight
    if gold:
        loss = loss + distillation.gold_coefficient * nll / tokens
    loss.backward()
    gradients = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    means = (total / weight, pull / weight, torch.as_tensor(nll) / max(tokens, 1))
    return dict(zip(("kl", "pull", "nll"), (float(mean.detach()) for mean in means), strict=True)), gradients


def moved(policy):
    with torch.no_grad():
        for index, parameter in enumerate(p for p in policy.model.parameters() if p.requires_grad):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(index)))
    return policy


@pytest.mark.parametrize("microbatch_tokens", [16, 4096])
@pytest.mark.parametrize(("gold", "beta"), [(True, 0.0), (False, 0.7), (True, 0.7)])
def test_the_gradient_is_that_of_the_whole_loss_in_float64(gold, beta, microbatch_tokens):
    settings = config(
        distillation={"targets": "online", "bound": "none", "initial_kl": beta}
        | ({"gold_share": 0.4, "gold_coefficient": 0.3} if gold else {}),
        optimizer={"microbatch_tokens": microbatch_tokens, "max_grad_norm": 1e9, "batch_size": 5},
    )
    student, initial, teacher = moved(small_policy(0)), small_policy(0), small_policy(1)
    builder = PromptBuilder(student.tokenizer, settings.prompts, settings.teacher)
    chosen = tuple(gold_item(example, builder, student, settings) for example in GOLD) if gold else ()
    anchors = Anchors(FixedTeacher(initial) if beta else None, (), chosen)
    batch = items(student, hint="9|")
    values, gradients = expected(student, initial, teacher, batch, chosen, settings)
    optimizer = build_optimizer(student.model.parameters(), settings.optimizer)
    metrics = train_step(student, FixedTeacher(teacher), batch, optimizer, settings, 0, anchors)
    for name, parameter in student.model.named_parameters():
        assert (parameter.grad.double() - gradients[name]).abs().max() <= 2e-5, name
    assert metrics["distillation/loss"] == pytest.approx(values["kl"], rel=1e-4)
    assert metrics.get("anchor/initial_kl", 0.0) == pytest.approx(values["pull"] if beta else 0.0, rel=1e-3)
    assert metrics.get("anchor/gold_nll", 0.0) == pytest.approx(values["nll"], rel=1e-4)


def test_without_adapters_the_student_is_its_own_initial_policy():
    """Under LoRA the pull needs no second copy: the same gradient as with one, and adapters are on again afterwards."""
    settings = config(
        distillation={"targets": "online", "bound": "none", "initial_kl": 0.7},
        optimizer={"max_grad_norm": 1e9, "batch_size": 5},
        model={"lora": {"rank": 4}},
    )
    found = []
    for adapter_off in (True, False):
        student = moved(add_lora(small_policy(0), settings.model.lora, seed=1))
        initial = AdapterOffTeacher(student) if adapter_off else FixedTeacher(small_policy(0))
        optimizer = build_optimizer([p for p in student.model.parameters() if p.requires_grad], settings.optimizer)
        metrics = train_step(
            student, FixedTeacher(small_policy(1)), items(student, hint="9|"), optimizer, settings, 0, Anchors(initial)
        )
        gradient = torch.cat([p.grad.flatten() for p in student.model.parameters() if p.grad is not None])
        found.append((metrics["anchor/initial_kl"], gradient))
    (one, first), (two, second) = found
    assert one == pytest.approx(two, rel=1e-5) and one > 0.01
    assert (first - second).norm() <= 1e-4 * second.norm()


def test_a_pull_alone_brings_the_student_back():
    """Teacher = live student would teach nothing; KL to the start shrinks step by step."""
    settings = config(distillation={"targets": "online", "initial_kl": 5.0}, optimizer={"learning_rate": 3e-3, "num_steps": 12})
    student = moved(small_policy(0))
    teacher, log = FixedTeacher(Policy(copy.deepcopy(student.model), student.tokenizer)), []
    distil(
        student, teacher, items(student), settings, Schedule(0, 12), 3,
        anchors=Anchors(FixedTeacher(small_policy(0))), on_step=lambda step, metrics: log.append(metrics["anchor/initial_kl"]),
    )  # fmt: skip
    assert np.mean(log[-3:]) < 0.5 * log[0]


def test_references_take_their_share_of_the_batch_and_each_step_has_its_own():
    settings = resolve("tiny", {"distillation": {"gold_share": 0.1}, "optimizer": {"batch_size": 64}})
    assert (gold_batch_size(settings), own_batch_size(settings)) == (6, 58)
    assert own_batch_size(resolve("tiny")) == 64 and gold_batch_size(resolve("tiny")) == 0
    policy = small_policy(0)
    builder = PromptBuilder(policy.tokenizer, settings.prompts, settings.teacher)
    one, two = (gold_item(example, builder, policy, settings) for example in GOLD)
    assert one.completion_ids == [*policy.tokenizer.encode("70"), policy.tokenizer.eos_token_id]
    anchors = Anchors(None, ((one,), (two,)))
    assert [anchors.of_step(step).gold for step in (0, 1)] == [(one,), (two,)] and anchors.of_step(0).gold_by_step == ()
    before = dict(effective_weights(policy.model))["lm_head.weight"].clone()
    run = config(distillation={"targets": "online", "gold_share": 0.3}, optimizer={"num_steps": 2, "batch_size": 3})
    log = []
    distil(policy, FixedTeacher(small_policy(0)), items(policy), run, Schedule(0, 2), 3, anchors=anchors,
           on_step=lambda step, metrics: log.append(metrics["anchor/gold_nll"]))  # fmt: skip
    assert len(set(log)) == 2 and not torch.equal(before, dict(effective_weights(policy.model))["lm_head.weight"])


def test_references_need_a_column():
    free = {"data": {"source": "q.jsonl", "columns": {"answer": ""}}, "promotion": {"mode": "manual"}}
    free["teacher"] = {"context": "concise"}
    assert resolve("tiny", free)
    with pytest.raises(ConfigError, match=r"gold_share=0\.1 need reference texts"):
        resolve("tiny", free, {"distillation": {"gold_share": 0.1}})
