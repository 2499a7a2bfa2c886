"""Objectives without a teacher against float64 torch: pytest tests/core/training/test_likelihood.py"""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from opsd_core.config.method import DistillationConfig
from opsd_core.errors import DataError
from opsd_core.objective import Head, SampledTokens, distillation_loss
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.likelihood import plain_likelihood
from opsd_core.objective.rows import Tiles
from opsd_core.teacher.teachers import NoTeacher
from opsd_core.training.opsa import with_advantages
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import TrainingItem, train_step
from tests.core.objective_oracle import evaluate, problem
from tests.core.small import small_policy
from tests.core.training.test_trainer import config, items


def fused(*arguments):
    """Tiles that divide neither the tokens nor the vocabulary."""
    return fused_loss(*arguments, tiles=Tiles(4, 19))


def torch_cross_entropy(case, settings, advantages=None):
    """loss = sum_n w_n A_n CE(logits_n / T, y_n), and its gradients, by torch in float64."""
    head = case["head"]
    leaves = [t.double().requires_grad_() for t in (case["hidden"], head.weight_VH, head.bias_V) if t is not None]
    logits = functional.linear(leaves[0], leaves[1], leaves[2] if head.bias_V is not None else None)
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    each = functional.cross_entropy(logits / settings.temperature, case["ids"], reduction="none")
    value = each if advantages is None else each * advantages.double()
    loss = (case["weights"].double() * value).sum()
    loss.backward()
    return loss.detach(), each.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("path", [plain_likelihood, fused, distillation_loss])
@pytest.mark.parametrize("divergence", ["cross_entropy", "opsa"])
@pytest.mark.parametrize(("temperature", "bias", "softcap"), [(1.0, False, None), (1.3, True, 5.0)])
def test_value_and_gradient_are_those_of_torch_in_float64(path, divergence, temperature, bias, softcap):
    case = problem(tokens=13, vocabulary=53, bias=bias, softcap=softcap, scale=2.0)
    settings = DistillationConfig(divergence=divergence, temperature=temperature)
    advantages = None if divergence == "cross_entropy" else -0.5 - torch.rand(13, generator=torch.manual_seed(1)) / 2
    loss, each, grads = torch_cross_entropy(case, settings, advantages)
    result, found = evaluate(path, case, SampledTokens(advantages), settings)
    assert result.loss_sum.item() == pytest.approx(loss.item(), abs=1e-5)
    counted = case["weights"] > 0
    assert torch.allclose(result.divergence_N[counted].double(), each[counted], atol=1e-5)
    assert result.teacher_entropy_N is None and result.teacher_logprobs_N is None
    for got, wanted in zip(found, grads, strict=True):
        assert (got.double() - wanted).abs().max() <= 1e-5


def test_no_bound_holds_a_likelihood_down():
    """The default bound belongs to divergences: -log p of an unlikely token keeps its full gradient."""
    case = problem(scale=4.0)
    bounded, free = (DistillationConfig(divergence="cross_entropy", bound=name) for name in ("token_reweight", "none"))
    one, first = evaluate(distillation_loss, case, SampledTokens(), bounded)
    two, second = evaluate(distillation_loss, case, SampledTokens(), free)
    assert one.divergence_N.max() > bounded.bound_threshold
    assert torch.equal(one.loss_sum, two.loss_sum) and torch.equal(first[0], second[0])


def test_a_batch_without_counted_tokens_is_zero_on_both_kinds():
    case = problem() | {"weights": torch.zeros(11)}
    result, grads = evaluate(distillation_loss, case, SampledTokens(), DistillationConfig(divergence="cross_entropy"))
    assert result.loss_sum.item() == 0.0 and all((grad == 0).all() for grad in grads)
    assert result.teacher_entropy_N is None


def test_targets_and_divergence_have_to_fit():
    case = problem()
    rows = (case["hidden"], Head(case["head"].weight_VH), case["ids"], case["weights"])
    with pytest.raises(DataError, match=r"forward_kl got SampledTokens"):
        distillation_loss(*rows[:2], SampledTokens(), *rows[2:], DistillationConfig())
    with pytest.raises(DataError, match=r"cross_entropy got HiddenTargets"):
        distillation_loss(*rows[:2], case["online"], *rows[2:], DistillationConfig(divergence="cross_entropy"))


def item(logprobs, entropies, weights):
    logprobs, entropies, weights = (np.asarray(values, np.float32) for values in (logprobs, entropies, weights))
    return TrainingItem([1], [1], list(range(len(logprobs))), logprobs, weights, rollout_entropy_T=entropies)


def test_opsa_advantages_by_hand():
    """10 counted tokens, 0.3 of them: -9, -8 and -7 with entropies 1, 3, 2 -> A = -1/2, -1, -3/4; the -10 does not count."""
    one = item([-10, -9, -1, -2, -8], [9, 1, 0, 0, 3], [0, 1, 1, 1, 2])
    first, second = with_advantages([one, item([-3, -7, -4, -5, -6, -1], [5, 2, 5, 5, 5, 5], [1] * 6)], 0.3)
    assert first.weights_T.tolist() == [0, 1, 0, 0, 2] and second.weights_T.tolist() == [0, 1, 0, 0, 0, 0]
    assert first.advantages_T.tolist() == [0, -0.5, 0, 0, -1] and second.advantages_T.tolist() == [0, -0.75, 0, 0, 0, 0]
    assert with_advantages([item([-1], [2.0], [1])], 0.2)[0].advantages_T.tolist() == [-0.5]


@pytest.mark.parametrize("divergence", ["cross_entropy", "opsa"])
def test_a_training_step_without_a_teacher_is_the_closed_form(divergence):
    """One step's loss = sum w A CE / sum w by torch over whole logits, for any split into microbatches."""
    settings = config(distillation={"divergence": divergence}, execution={"microbatch_tokens": 16})
    policy, generator = small_policy(0), np.random.default_rng(0)
    batch = [
        dataclasses.replace(
            i,
            rollout_logprobs_T=-generator.random(len(i.completion_ids)).astype(np.float32),
            rollout_entropy_T=generator.random(len(i.completion_ids)).astype(np.float32),
        )
        for i in items(policy)
    ]
    chosen = with_advantages(batch, 0.2) if divergence == "opsa" else batch
    total, weight = 0.0, sum(i.weights_T.sum() for i in chosen)
    double = small_policy(0).model.double()
    for i in chosen:
        logits = double(input_ids=torch.tensor([i.prompt_ids + i.completion_ids])).logits[0, len(i.prompt_ids) - 1 : -1]
        each = functional.cross_entropy(logits, torch.tensor(i.completion_ids), reduction="none")
        advantages = 1.0 if i.advantages_T is None else torch.from_numpy(i.advantages_T).double()
        total = total + (each * advantages * torch.from_numpy(i.weights_T)).sum()
    (total / weight).backward()
    norm = torch.cat([p.grad.flatten() for p in double.parameters()]).norm().item()
    optimizer = build_optimizer(policy.model.parameters(), settings.optimizer)
    metrics = train_step(policy, NoTeacher(), batch, optimizer, settings, 0)
    assert metrics["distillation/loss"] == pytest.approx(total.item() / weight, rel=1e-4)
    assert metrics["optim/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert "nll/mean" in metrics and not [name for name in metrics if name.startswith(("kl/", "teacher/", "clip/"))]
