"""References among the samples and the pull of the initial policy, against float64: pytest tests/core/training/test_anchors.py"""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from opsd_core.config import resolve
from opsd_core.errors import ConfigError
from opsd_core.models.policy import Policy, add_lora, effective_weights
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling, rollout_of
from opsd_core.teacher.teachers import AdapterOffTeacher, FixedTeacher
from opsd_core.training.anchors import (
    Anchors,
    gold_batch_size,
    gold_item,
    held_gold,
    held_rehearsal,
    own_batch_size,
    rehearsed_batch_size,
    rehearsed_item,
)
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import Schedule, distil, train_step
from tests.core.small import small_policy
from tests.core.training.test_trainer import config, items

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
        optimizer={"max_grad_norm": 1e9, "batch_size": 5},
        execution={"microbatch_tokens": microbatch_tokens},
    )
    student, initial, teacher = moved(small_policy(0)), small_policy(0), small_policy(1)
    builder = PromptBuilder(student.tokenizer, settings.prompts, settings.teacher)
    chosen = tuple(gold_item(example, builder, student, settings) for example in GOLD) if gold else ()
    anchors = Anchors(FixedTeacher(initial) if beta else None, (), (held_gold(chosen, settings),) if gold else ())
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
    settings = config(
        distillation={"targets": "online", "initial_kl": 5.0}, optimizer={"learning_rate": 3e-3, "num_steps": 12}
    )
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
    anchors = Anchors(None, ((held_gold([one], settings),), (held_gold([two], settings),)))
    assert [anchors.of_step(step).held[0].items for step in (0, 1)] == [(one,), (two,)] and not anchors.of_step(
        0
    ).by_step
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


def rehearsed(policy, prompts=("what?", "3+4=", "and?"), length=6):
    """What `policy` answers to these prompts, with its distributions, as rollouts keep them."""
    sampling = Sampling(temperature=1.0, max_completion_length=length, record_top_k=8)
    ids = [policy.tokenizer.encode(prompt) for prompt in prompts]
    completions = generate(policy, ids, list(range(len(ids))), sampling, 2)
    return [rollout_of((text, 0), 0, row, made, "") for text, row, made in zip(prompts, ids, completions, strict=True)]


@pytest.mark.parametrize("microbatch_tokens", [16, 4096])
def test_rehearsal_is_the_kl_to_what_the_initial_policy_recorded(microbatch_tokens):
    """Value and gradient against float64 over buckets: the recorded tokens and everything else."""
    settings = config(
        distillation={"targets": "online", "bound": "token_reweight", "bound_threshold": 1e-6, "temperature": 2.0},
        optimizer={"max_grad_norm": 1e9, "batch_size": 5},
        execution={"microbatch_tokens": microbatch_tokens},
        rehearsal={"share": 0.4, "coefficient": 0.7, "data": [{"source": "tiny:addition"}]},
    )
    rollouts = rehearsed(small_policy(0))
    student = moved(small_policy(0))
    exact, total, tokens = copy.deepcopy(student.causal_lm).double(), 0.0, 0
    for rollout in rollouts:
        log_s = torch.log_softmax(logits(exact, rollout), -1)
        ids = torch.from_numpy(rollout.topk_ids_TK).long()
        kept = log_s.gather(1, ids)
        tail = log_s.exp().scatter(1, ids, 0.0).sum(-1).log()
        p, p_tail = torch.from_numpy(rollout.topk_logprobs_TK).double(), torch.from_numpy(rollout.tail_mass_T).double()
        total = total + (p.exp() * (p - kept)).sum() + (p_tail * (p_tail.log() - tail)).sum()
        tokens += len(rollout.completion_ids)
    (0.7 * total / tokens).backward()
    held = held_rehearsal([rehearsed_item(rollout) for rollout in rollouts], settings)
    nothing = small_policy(0)  # its own teacher: the objective itself adds no gradient
    nothing.model.load_state_dict(student.model.state_dict())
    optimizer = build_optimizer(student.model.parameters(), settings.optimizer)
    metrics = train_step(student, FixedTeacher(nothing), items(student), optimizer, settings, 0, Anchors(None, (), (held,)))
    assert metrics["anchor/rehearsal_kl"] == pytest.approx(float(total.detach()) / tokens, rel=1e-4)
    for (name, parameter), wanted in zip(student.model.named_parameters(), exact.parameters(), strict=True):
        assert (parameter.grad.double() - wanted.grad).abs().max() <= 2e-5, name


def test_rehearsal_asks_nothing_of_a_student_that_has_not_moved():
    settings = config(rehearsal={"share": 0.4, "data": [{"source": "tiny:addition"}]}, distillation={"targets": "online"})
    student = small_policy(0)
    held = held_rehearsal([rehearsed_item(rollout) for rollout in rehearsed(small_policy(0))], settings)
    optimizer = build_optimizer(student.model.parameters(), settings.optimizer)
    metrics = train_step(
        student, FixedTeacher(small_policy(0)), items(student), optimizer, settings, 0, Anchors(None, (), (held,))
    )
    assert abs(metrics["anchor/rehearsal_kl"]) < 1e-5 and not metrics["optim/applied"]


def test_rehearsal_takes_its_share_of_the_batch():
    settings = resolve("tiny", {"rehearsal": {"share": 0.25, "data": [{"source": "tiny:addition"}]}})
    assert (rehearsed_batch_size(settings), own_batch_size(settings)) == (16, 48)
    both = resolve("tiny", {"rehearsal": settings.rehearsal.model_dump(), "distillation": {"gold_share": 0.1}})
    assert own_batch_size(both) == 64 - 16 - 6 and rehearsed_batch_size(resolve("tiny")) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"share": 0.2}, "nothing to rehearse"),
        ({"data": [{"source": "tiny:addition"}]}, "none of them would be used"),
        ({"share": 0.2, "num_prompts": 1, "data": [{"source": "a.jsonl"}, {"source": "b.jsonl"}]}, "num_prompts=1 for 2 sources"),
    ],
)
def test_rehearsal_that_cannot_be_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        resolve("tiny", {"rehearsal": values})


def test_gold_and_rehearsal_leave_something_of_the_policys_own():
    shares = {"rehearsal": {"share": 0.6, "data": [{"source": "tiny:addition"}]}, "distillation": {"gold_share": 0.4}}
    with pytest.raises(ConfigError, match="leave none of the policy's own"):
        resolve("tiny", shares)
