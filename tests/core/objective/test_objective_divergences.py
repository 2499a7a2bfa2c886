"""Divergences by hand, by limit and by closed-form gradient: pytest tests/core/objective/test_objective_divergences.py"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_core.objective.divergences import (
    entropy_mix,
    forward_kl,
    forward_share,
    jsd,
    reverse_kl,
    sampled_token,
    skew_kl,
)
from opsd_core.objective.types import LOG_ZERO


def logprobs(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def random_logprobs(rows, size, seed, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(spread * torch.randn(rows, size, generator=generator, dtype=torch.float64), dim=-1)


def value(entries):
    return entries.terms_NE.sum(dim=-1)


STUDENT, TEACHER = logprobs(0.9, 0.1), logprobs(0.5, 0.5)


def test_forward_kl_by_hand():
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert value(forward_kl(STUDENT, TEACHER)).item() == pytest.approx(expected, abs=1e-12)


def test_reverse_kl_by_hand():
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert value(reverse_kl(STUDENT, TEACHER)).item() == pytest.approx(expected, abs=1e-12)


def test_jsd_by_hand():
    """beta = 0.25: M = 0.25 (.5, .5) + 0.75 (.9, .1) = (.8, .2)."""
    teacher_to_mixture = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    student_to_mixture = 0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2)
    expected = 0.25 * teacher_to_mixture + 0.75 * student_to_mixture
    assert value(jsd(STUDENT, TEACHER, beta=0.25)).item() == pytest.approx(expected, abs=1e-12)
    normalised = value(jsd(STUDENT, TEACHER, beta=0.25, normalise=True)).item()
    assert normalised == pytest.approx(expected / (0.25 * 0.75), abs=1e-12)


def test_skew_kl_by_hand():
    """skew = 0.1: M = 0.1 (.5, .5) + 0.9 (.9, .1) = (.86, .14)."""
    expected = 0.5 * math.log(0.5 / 0.86) + 0.5 * math.log(0.5 / 0.14)
    assert value(skew_kl(STUDENT, TEACHER, skew=0.1)).item() == pytest.approx(expected, abs=1e-12)
    assert value(skew_kl(STUDENT, TEACHER, skew=0.0)).item() == pytest.approx(
        value(forward_kl(STUDENT, TEACHER)).item()
    )


def test_entropy_mix_by_hand():
    """H_T = log 2 = 0.693; g = 1 / (1 + e^((0.8 - 0.693) / 0.1)) = 0.2557."""
    share = forward_share(torch.tensor([math.log(2)], dtype=torch.float64), threshold=0.8, width=0.1)
    assert share.item() == pytest.approx(1 / (1 + math.exp((0.8 - math.log(2)) / 0.1)), abs=1e-12)
    mixed = value(entropy_mix(STUDENT, TEACHER, share[:, None])).item()
    forward, reverse = value(forward_kl(STUDENT, TEACHER)).item(), value(reverse_kl(STUDENT, TEACHER)).item()
    assert mixed == pytest.approx(share.item() * forward + (1 - share.item()) * reverse, abs=1e-12)


def test_sampled_token_raises_what_the_teacher_prefers():
    """log T = log .5, log S = log .1: advantage log 5, so descent raises log S at that rate."""
    student = torch.tensor([[math.log(0.1)]], dtype=torch.float64, requires_grad=True)
    entries = sampled_token(student, torch.tensor([[math.log(0.5)]], dtype=torch.float64))
    entries.terms_NE.sum().backward()
    assert entries.terms_NE.item() == pytest.approx(-math.log(5), abs=1e-12)
    assert student.grad.item() == pytest.approx(-math.log(5), abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_jsd_ends_are_exactly_the_closed_forms(beta):
    student, teacher = random_logprobs(4, 30, 0), random_logprobs(4, 30, 1)
    expected = (reverse_kl if beta else forward_kl)(student, teacher)
    for normalise in (False, True):
        assert torch.equal(jsd(student, teacher, beta, normalise).terms_NE, expected.terms_NE)


def test_jsd_divided_by_its_weight_tends_to_the_kls():
    student, teacher = random_logprobs(4, 30, 0, spread=0.5), random_logprobs(4, 30, 1, spread=0.5)
    for beta, tolerance in ((1e-2, 5e-2), (1e-4, 5e-4), (1e-6, 5e-6)):
        near_0, near_1 = jsd(student, teacher, beta), jsd(student, teacher, 1 - beta)
        torch.testing.assert_close(value(near_0) / beta, value(forward_kl(student, teacher)), rtol=tolerance, atol=0)
        torch.testing.assert_close(value(near_1) / beta, value(reverse_kl(student, teacher)), rtol=tolerance, atol=0)
        joined = value(jsd(student, teacher, beta, normalise=True))
        torch.testing.assert_close(joined, value(forward_kl(student, teacher)), rtol=tolerance, atol=0)


def test_normalised_jsd_near_its_limit_in_float32():
    """beta = 1e-4 in float32: log1p(beta expm1(d)) keeps the digits that logaddexp would lose."""
    student, teacher = random_logprobs(4, 30, 0), random_logprobs(4, 30, 1)
    exact = value(jsd(student, teacher, 1e-4, normalise=True))
    single = value(jsd(student.float(), teacher.float(), 1e-4, normalise=True))
    torch.testing.assert_close(single.double(), exact, rtol=2e-3, atol=0)


def test_beta_outside_the_unit_interval_is_named():
    with pytest.raises(ValueError, match=r"distillation\.beta=1\.5"):
        jsd(STUDENT, TEACHER, beta=1.5)


@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0.1, 8.0), st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_jsd_properties(seed, beta, spread, size):
    """0 <= JSD_beta <= H(beta); JSD_beta(S, T) = JSD_{1-beta}(T, S); symmetric and <= log 2 at one half."""
    student, teacher = random_logprobs(3, size, seed, spread), random_logprobs(3, size, seed + 1, spread)
    entropy = -beta * math.log(beta) - (1 - beta) * math.log1p(-beta)
    divergence = value(jsd(student, teacher, beta))
    assert (divergence >= -1e-12).all() and (divergence <= entropy + 1e-12).all()
    torch.testing.assert_close(divergence, value(jsd(teacher, student, 1 - beta)), rtol=1e-9, atol=1e-12)
    half = value(jsd(student, teacher, 0.5))
    torch.testing.assert_close(half, value(jsd(teacher, student, 0.5)), rtol=1e-9, atol=1e-12)
    assert (half <= math.log(2) + 1e-12).all()


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.floats(0.1, 8.0))
@settings(max_examples=40, deadline=None)
def test_divergences_are_not_negative_and_skew_is_bounded(seed, skew, spread):
    student, teacher = random_logprobs(3, 20, seed, spread), random_logprobs(3, 20, seed + 1, spread)
    for kl in (forward_kl, reverse_kl):
        assert (value(kl(student, teacher)) >= -1e-12).all()
    skewed = value(skew_kl(student, teacher, skew))
    assert (skewed >= -1e-12).all() and (skewed <= value(forward_kl(student, teacher)) + 1e-9).all()
    assert (skewed <= math.log(1 / skew) + 1e-9).all()


FUNCTIONS = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": lambda s, t: jsd(s, t, 0.3),
    "jsd_normalised": lambda s, t: jsd(s, t, 0.3, normalise=True),
    "skew_kl": lambda s, t: skew_kl(s, t, 0.1),
    "entropy_mix": lambda s, t: entropy_mix(s, t, torch.full((len(s), 1), 0.4, dtype=s.dtype)),
    "sampled_token": sampled_token,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_are_the_derivatives_of_the_terms(name):
    """Entry by entry, without help from sum_v S_v = 1 (entry clipping relies on it), also where both sides agree."""
    student, teacher = random_logprobs(5, 30, 2), random_logprobs(5, 30, 3)
    teacher[:, ::3] = student[:, ::3]
    student.requires_grad_()
    entries = FUNCTIONS[name](student, teacher)
    (gradient,) = torch.autograd.grad(entries.terms_NE.sum(), student)
    torch.testing.assert_close(gradient, entries.slopes_NE.detach(), rtol=1e-10, atol=1e-13)


def test_forward_kl_gradient_is_student_minus_teacher():
    logits, teacher = random_logprobs(5, 30, 2).requires_grad_(), random_logprobs(5, 30, 3)
    forward_kl(torch.log_softmax(logits, dim=-1), teacher).terms_NE.sum().backward()
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), -1) - teacher.exp(), rtol=1e-9, atol=1e-12)


def test_reverse_kl_gradient_is_the_centred_log_ratio():
    """S (log S/T - KL(S || T))."""
    logits, teacher = random_logprobs(5, 30, 2).requires_grad_(), random_logprobs(5, 30, 3)
    student = torch.log_softmax(logits, dim=-1)
    divergence = value(reverse_kl(student, teacher))
    divergence.sum().backward()
    expected = student.exp() * (student - teacher - divergence[:, None])
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_zero_times_log_zero_is_zero(name):
    """An entry that neither side can produce adds nothing to value or slope."""
    impossible = torch.full((1, 1), LOG_ZERO, dtype=torch.float32)
    student, teacher = (torch.cat([side.float(), impossible], dim=-1) for side in (STUDENT, TEACHER))
    entries = FUNCTIONS[name](student, teacher)
    assert entries.terms_NE[0, -1].item() == 0.0 and entries.slopes_NE[0, -1].item() == 0.0
