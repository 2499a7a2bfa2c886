"""Kept entries and the tail bucket: pytest tests/core/objective/test_objective_supports.py"""

import math

import pytest
import torch

from opsd_core.config.method import DistillationConfig
from opsd_core.objective import FullTargets, Head, TopKTargets, distillation_loss
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.plain import plain_loss, project
from opsd_core.objective.rows import Tiles
from opsd_core.objective.supports import choose_entries, top_k_targets
from tests.core.objective_oracle import evaluate, problem, recorded

PATHS = (plain_loss, fused_loss)


def test_recorded_targets_by_hand():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    targets = top_k_targets(logits, k=2, token_ids_N=torch.tensor([2]))
    assert targets.ids_NK.tolist() == [[1, 3]]
    torch.testing.assert_close(targets.logprobs_NK.exp(), torch.tensor([[0.5, 0.25]]))
    assert targets.tail_logprob_N.exp().item() == pytest.approx(0.25)
    assert targets.sampled_logprob_N.exp().item() == pytest.approx(0.15)
    assert top_k_targets(logits, k=9).tail_logprob_N.item() == -math.inf


@pytest.mark.parametrize("path", PATHS)
def test_bucketed_forward_kl_by_hand(path):
    """S = (.4, .3, .2, .1), T = (.1, .6, .2, .1), k = 1: entries (.6 | .4) against (.3 | .7)."""
    student = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().requires_grad_()
    targets = TopKTargets(torch.tensor([[1]]), torch.tensor([[0.6]]).log(), torch.tensor([0.4]).log())
    config = DistillationConfig(bound="none")
    result = path(student, Head(torch.eye(4)), targets, torch.tensor([0]), torch.ones(1), config)
    assert result.loss_sum.item() == pytest.approx(0.6 * math.log(0.6 / 0.3) + 0.4 * math.log(0.4 / 0.7), abs=1e-6)
    result.loss_sum.backward()
    # Kept: .3 - .6. Outside: S_v / .7 * (.7 - .4), so (.4, .2, .1) * 3/7. The sum is 0.
    expected = torch.tensor([[0.4 * 3 / 7, -0.3, 0.2 * 3 / 7, 0.1 * 3 / 7]])
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=1e-5)


def divergences(path, case, teacher, **settings):
    result, grads = evaluate(path, case, teacher, DistillationConfig(bound="none", **settings))
    return result.divergence_N, grads[0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl"])
@pytest.mark.parametrize("side", ["teacher", "student", "union", "recorded"])
def test_bucketed_divergence_grows_with_k_up_to_the_full_one(side, divergence, path):
    """Data processing: merging entries never raises an f-divergence; k = V merges none."""
    case = problem(vocabulary=41, tokens=9, seed=4)
    case["weights"] = torch.ones(9)
    full, full_gradient = divergences(path, case, case["online"], targets="online", divergence=divergence)
    last = torch.zeros(9)
    for k in (1, 2, 5, 10, 20, 40, 41):
        if side == "recorded":
            targets = recorded(case | {"top_k": k}, temperature=1.0)
            value, gradient = divergences(path, case, targets, divergence=divergence)
        else:
            choice = {"targets": "online", "top_k_of": side, "top_k": k}
            value, gradient = divergences(path, case, case["online"], divergence=divergence, **choice)
        assert (value >= last - 1e-5).all() and (value <= full + 1e-5).all()
        last = value
    torch.testing.assert_close(last, full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, full_gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix"])
@pytest.mark.parametrize("tail", [-math.inf, math.log(1e-8), math.log(1e-12)])
def test_finite_when_the_kept_entries_hold_everything(tail, divergence, path):
    """Sum of the teacher's top-k >= 1 - 1e-8 while the student's tail is large, and the other way round."""
    case = problem(tokens=4, vocabulary=30, seed=6)
    case["weights"] = torch.ones(4)
    ids = torch.arange(3).expand(4, 3).contiguous()
    targets = TopKTargets(ids, torch.tensor([[0.7, 0.2, 0.1]]).log().expand(4, 3), torch.full((4,), tail))
    config = DistillationConfig(bound="none", divergence=divergence)
    for sharp in (False, True):
        hidden = case["head"].weight_VH[:4] * (60.0 if sharp else 1.0)
        result, grads = evaluate(path, case | {"hidden": hidden}, targets, config)
        assert torch.isfinite(result.loss_sum) and all(torch.isfinite(grad).all() for grad in grads)


def test_union_marks_repeated_entries():
    """Teacher's top 2 = {0, 1}, student's = {1, 2}: ids 0 1 1 2, the second 1 does not count."""
    teacher = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    student = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    kept = choose_entries(student, teacher, k=2, top_k_of="union")
    assert kept.ids_NK.tolist() == [[0, 1, 1, 2]]
    assert kept.repeated_NK.tolist() == [[False, False, True, False]]


def test_recorded_and_online_teacher_top_k_agree():
    case = problem(vocabulary=41, seed=8)
    online = DistillationConfig(targets="online", top_k_of="teacher", top_k=6, temperature=1.2)
    stored = DistillationConfig(targets="recorded", top_k=6, temperature=1.2)
    targets = recorded(case | {"top_k": 6}, temperature=1.2)
    expected, expected_grads = evaluate(distillation_loss, case, case["online"], online)
    result, grads = evaluate(distillation_loss, case, targets, stored)
    torch.testing.assert_close(result.bounded_N, expected.bounded_N, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grads, expected_grads, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", ["full", "teacher", "union"])
def test_whole_teacher_distributions_agree_with_projected_ones(side, path):
    case = problem(vocabulary=41, seed=8)
    config = DistillationConfig(targets="online", top_k_of=side, top_k=6, divergence="jsd", temperature=1.2)
    online = case["online"]
    full = FullTargets(project(online.hidden_NH, online.head, online.temperature * 1.2))
    expected, expected_grads = evaluate(path, case, online, config)
    result, grads = evaluate(path, case, full, config)
    torch.testing.assert_close(result.bounded_N, expected.bounded_N, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grads, expected_grads, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix"])
@pytest.mark.parametrize("bound", ["none", "token_reweight", "ratio_clip", "entry_clip"])
def test_truncated_teacher_gives_finite_gradients(bound, divergence, path):
    """top-p leaves entries with T = 0: reverse KL is then huge, but never nan, and bounds make its gradient usable."""
    case = problem(vocabulary=41, seed=8)
    logprobs = project(case["online"].hidden_NH, case["online"].head, 1.0)
    kept = logprobs >= logprobs.topk(5, dim=-1).values[:, -1:]
    full = FullTargets(torch.log_softmax(logprobs.masked_fill(~kept, -math.inf), dim=-1))
    config = DistillationConfig(targets="online", divergence=divergence, bound=bound)
    result, grads = evaluate(path, case, full, config)
    assert torch.isfinite(result.loss_sum) and all(torch.isfinite(grad).all() for grad in grads)
    assert bound == "none" or grads[0].abs().max() < 100


def test_recorded_teacher_entropy_is_a_lower_limit():
    case = problem(vocabulary=41, seed=8)
    case["weights"] = torch.ones(len(case["ids"]))
    full = evaluate(fused_loss, case, case["online"], DistillationConfig(targets="online"), tiles=Tiles(4, 16))[0]
    stored = evaluate(fused_loss, case, recorded(case, 1.0), DistillationConfig(), tiles=Tiles(4, 16))[0]
    assert (stored.teacher_entropy_N <= full.teacher_entropy_N + 1e-5).all()
