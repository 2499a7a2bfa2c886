"""What each bound does to value and gradient: pytest tests/core/objective/test_objective_bounds.py"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_core.config.method import DistillationConfig
from opsd_core.objective import Head, HiddenTargets, distillation_loss
from opsd_core.objective.bounds import token_clip, token_reweight
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.plain import plain_loss
from opsd_core.objective.rows import Tiles
from tests.core.objective_oracle import evaluate, problem

PATHS = (plain_loss, fused_loss)


def logit_gradient(path, student, teacher, **settings):
    """Loss and gradient with respect to the logits of one token: hidden states are the logits, the head is identity."""
    logits = torch.tensor([student], dtype=torch.float64).log().requires_grad_()
    identity = Head(torch.eye(len(student), dtype=torch.float64))
    targets = HiddenTargets(torch.tensor([teacher], dtype=torch.float64).log(), identity)
    config = DistillationConfig(targets="online", **settings)
    result = path(logits, identity, targets, torch.tensor([0]), torch.ones(1), config)
    result.loss_sum.backward()
    return result, logits.grad[0]


@pytest.mark.parametrize("path", PATHS)
def test_entry_clip_reverses_the_gradient(path):
    """T = (.9, .06, .04), S = (.8, .12, .08).

    Terms T log T/S = (.1060, -.0416, -.0277): the divergence .0367 is below tau = .05, but its first term is not.
    Forward KL's gradient is S - T = (-.1, .06, .04). With U = {2, 3} unclipped, T(U) = .1 and the gradient is
    S T(U) - T 1[U] = (.08, .012 - .06, .008 - .04) = (.08, -.048, -.032): descent lowers the entry that T prefers.
    """
    student, teacher = (0.8, 0.12, 0.08), (0.9, 0.06, 0.04)
    result, plain = logit_gradient(path, student, teacher, bound="none")
    clipped_result, clipped = logit_gradient(path, student, teacher, bound="entry_clip", bound_threshold=0.05)
    terms = [t * math.log(t / s) for s, t in zip(student, teacher, strict=True)]
    assert result.divergence_N.item() == pytest.approx(sum(terms), abs=1e-9) and sum(terms) < 0.05 < terms[0]
    torch.testing.assert_close(plain, torch.tensor([-0.1, 0.06, 0.04], dtype=torch.float64))
    torch.testing.assert_close(clipped, torch.tensor([0.08, -0.048, -0.032], dtype=torch.float64))
    assert torch.cosine_similarity(plain, clipped, dim=0) < -0.99
    assert clipped_result.divergence_N.item() == pytest.approx(sum(terms), abs=1e-9)
    assert clipped_result.bounded_N.item() == pytest.approx(0.05 + terms[1] + terms[2], abs=1e-9)
    assert clipped_result.bounded_N.item() < 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix"])
def test_token_reweight_keeps_the_direction(divergence, path):
    """D = tau exactly after the bound; gradient = gradient without it times tau / D."""
    student, teacher = (0.7, 0.2, 0.06, 0.04), (0.1, 0.1, 0.3, 0.5)
    result, plain = logit_gradient(path, student, teacher, divergence=divergence, bound="none")
    divergence_value = result.divergence_N.item()
    tau = divergence_value / 4
    bounded, reweighted = logit_gradient(path, student, teacher, divergence=divergence, bound_threshold=tau)
    assert bounded.bounded_N.item() == pytest.approx(tau)
    torch.testing.assert_close(reweighted, plain / 4)
    untouched, same = logit_gradient(
        path, student, teacher, divergence=divergence, bound_threshold=2 * divergence_value
    )
    assert untouched.bounded_N.item() == pytest.approx(divergence_value)
    torch.testing.assert_close(same, plain)


@pytest.mark.parametrize("path", PATHS)
def test_token_clip_has_no_gradient_above_the_threshold(path):
    student, teacher = (0.8, 0.12, 0.08), (0.9, 0.06, 0.04)
    above, gradient = logit_gradient(path, student, teacher, bound="token_clip", bound_threshold=0.03)
    assert above.bounded_N.item() == pytest.approx(0.03) and torch.equal(gradient, torch.zeros_like(gradient))
    _, gradient = logit_gradient(path, student, teacher, bound="token_clip", bound_threshold=0.04)
    torch.testing.assert_close(gradient, torch.tensor([-0.1, 0.06, 0.04], dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
def test_ratio_clip_limits_the_importance_weight(path):
    """Forward KL, tau = log 2, S = (.8, .1, .1), T = (.2, .7, .1): log T/S = (-1.39, 1.95, 0) clips to (-.69, .69, 0).

    The target becomes S e^clip = (.4, .2, .1), of mass .7; gradient = .7 S - target = (.16, -.13, -.03).
    """
    settings = {"bound": "ratio_clip", "bound_threshold": math.log(2)}
    result, gradient = logit_gradient(path, (0.8, 0.1, 0.1), (0.2, 0.7, 0.1), **settings)
    torch.testing.assert_close(gradient, torch.tensor([0.16, -0.13, -0.03], dtype=torch.float64))
    assert result.bounded_N.item() == pytest.approx(0.4 * math.log(0.5) + 0.2 * math.log(2))


@pytest.mark.parametrize("path", PATHS)
def test_ratio_clip_clips_the_advantage_of_the_sampled_token(path):
    """S = .8, T = .2 of the token: advantage log .25 = -1.386 clips to -1; gradient = 1 * (onehot - S) = (.2, -.1, -.1)."""
    settings = {"divergence": "sampled_token", "bound": "ratio_clip", "bound_threshold": 1.0}
    result, gradient = logit_gradient(path, (0.8, 0.1, 0.1), (0.2, 0.7, 0.1), **settings)
    assert result.divergence_N.item() == pytest.approx(math.log(4)) and result.bounded_N.item() == pytest.approx(1.0)
    torch.testing.assert_close(gradient, torch.tensor([0.2, -0.1, -0.1], dtype=torch.float64))


@given(st.lists(st.floats(-5, 50), min_size=1, max_size=20), st.floats(1e-3, 10))
@settings(max_examples=100, deadline=None)
def test_token_bounds_never_exceed_the_threshold(values, threshold):
    divergence = torch.tensor(values, dtype=torch.float64)
    reweighted, clipped = token_reweight(divergence, threshold), token_clip(divergence, threshold)
    assert (reweighted.value_N.abs() <= threshold * (1 + 1e-9)).all() and (clipped.value_N <= threshold).all()
    assert ((reweighted.gradient_factor_N > 0) & (reweighted.gradient_factor_N <= 1)).all()
    torch.testing.assert_close(reweighted.value_N, divergence * reweighted.gradient_factor_N)
    assert torch.isin(clipped.gradient_factor_N, torch.tensor([0.0, 1.0], dtype=torch.float64)).all()


@pytest.mark.parametrize("path", PATHS)
def test_each_tokens_gradient_norm_is_bounded_by_the_reweighting(path):
    """Per token: gradient of D * min(1, tau / D) is the unbounded gradient times that factor, in the same direction."""
    case = problem(vocabulary=97, seed=11)
    case["weights"] = torch.ones(len(case["ids"]))
    options = {"tiles": Tiles(4, 32)} if path is fused_loss else {}
    free = DistillationConfig(targets="online", bound="none")
    bound = DistillationConfig(targets="online", bound="token_reweight", bound_threshold=0.1)
    result, (plain, _) = evaluate(path, case, case["online"], free, **options)
    _, (bounded, _) = evaluate(path, case, case["online"], bound, **options)
    factor = (0.1 / result.divergence_N).clamp(max=1.0)
    assert (factor < 1).any()
    torch.testing.assert_close(bounded, plain * factor[:, None], rtol=1e-4, atol=1e-6)
    assert (torch.cosine_similarity(bounded, plain, dim=1) > 1 - 1e-5).all()


def test_a_bounded_batch_is_not_scaled_back_up():
    """Dividing by the sum of weights, not of weights * factors: if every token is bounded the mean is tau."""
    case = problem(seed=2)
    config = DistillationConfig(targets="online", bound_threshold=1e-3)
    result = distillation_loss(case["hidden"], case["head"], case["online"], case["ids"], case["weights"], config)
    assert (result.divergence_N[case["weights"] > 0] > 1e-3).all()
    assert (result.loss_sum / case["weights"].sum()).item() == pytest.approx(1e-3, rel=1e-5)
