"""pytest tests/core/objective/test_objective_tail.py — reverse KL on a truncated support: bias before and after."""

import pytest
import torch

from opsd_core.config import resolve
from opsd_core.config.method import DistillationConfig
from opsd_core.config.rules.risks import risks
from opsd_core.errors import ConfigError, DataError
from opsd_core.objective import FullTargets, Head, HiddenTargets, TopKTargets, distillation_loss
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.plain import plain_loss
from opsd_core.objective.rows import Tiles
from opsd_core.objective.supports import top_k_targets
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_targets
from opsd_core.teacher.teachers import FixedTeacher
from tests.core.small import rollout_of, small_policy

PATHS = (plain_loss, lambda *arguments: fused_loss(*arguments, tiles=Tiles(7, 6)))
V, K = 23, 4
SIDES = ["student", "teacher", "union", "recorded"]


def logits(seed, scale=2.0):
    return scale * torch.randn(3, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full_gradient(student, teacher, temperature=1.0):
    """float64, of KL(S || T) over the whole vocabulary, by autograd."""
    z = student.clone().requires_grad_()
    s, t = torch.log_softmax(z / temperature, -1), torch.log_softmax(teacher / temperature, -1)
    (s.exp() * (s - t)).sum().backward()
    return z.grad


def settings(side, tail, **more):
    chosen = {"targets": "recorded"} if side == "recorded" else {"targets": "online", "top_k_of": side}
    return DistillationConfig(divergence="reverse_kl", bound="none", top_k=K, tail=tail, **chosen, **more)


def gradient_of(path, side, tail, student, teacher, token, softcap=None, **more):
    """Value and gradient with respect to the student's logits, which are its hidden states: the head is 1."""
    config, hidden = settings(side, tail, **more), student.clone().requires_grad_()
    head, tokens = Head(torch.eye(V, dtype=torch.float64), softcap=softcap), torch.full((len(student),), token)
    if side == "recorded":
        t = torch.log_softmax(teacher / config.temperature, -1)
        kept = t.topk(K, -1)
        tail_logprob = torch.log1p(-kept.values.exp().sum(-1))
        targets = TopKTargets(kept.indices, kept.values, tail_logprob, t[:, token])
    else:
        targets = HiddenTargets(teacher, head._replace(softcap=None))
    result = path(hidden, head, targets, tokens, torch.ones(len(student), dtype=torch.float64), config)
    result.loss_sum.backward()
    return result, hidden.grad


def expected_gradient(path, side, tail, student, teacher, **more):
    """sum_y S_y gradient(y): the mean over the policy's own tokens, exactly; and the mean value."""
    shares = torch.softmax(student / more.get("temperature", 1.0), -1)
    value, gradient = torch.zeros(len(student), dtype=torch.float64), torch.zeros_like(student)
    for token in range(V):
        result, found = gradient_of(path, side, tail, student, teacher, token, **more)
        gradient += shares[:, token, None] * found
        value += shares[:, token] * result.divergence_N
    return value, gradient


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_with_the_sampled_token_the_mean_gradient_is_that_over_the_vocabulary(side, path, temperature):
    student, teacher = logits(1), logits(2)
    wanted = full_gradient(student, teacher, temperature)
    value, corrected = expected_gradient(path, side, "sampled", student, teacher, temperature=temperature)
    _, bucketed = gradient_of(path, side, "bucket", student, teacher, 0, temperature=temperature)
    assert torch.allclose(corrected, wanted, atol=1e-10)
    assert (bucketed - wanted).norm() > 0.02 * wanted.norm()  # what the bucket cannot tell apart
    s, t = (torch.log_softmax(side / temperature, -1) for side in (student, teacher))
    assert torch.allclose(value, (s.exp() * (s - t)).sum(-1), atol=1e-10)


def test_by_hand_the_three_gradients_of_four_tokens():
    """S = (.5, .2, .2, .1), T = (.5, .2, .05, .25), K = 2: S and T agree on what is kept, and disagree in the tail."""
    s, t = (torch.tensor([p], dtype=torch.float64).log() for p in ((0.5, 0.2, 0.2, 0.1), (0.5, 0.2, 0.05, 0.25)))
    r = (s - t)[0]
    full = (s.exp()[0] * (r - (s.exp()[0] * r).sum()))[None]
    config, eye = DistillationConfig(divergence="reverse_kl", bound="none", tail="sampled"), Head(torch.eye(4).double())
    for token in range(4):
        hidden = s.clone().requires_grad_()
        targets = TopKTargets(torch.tensor([[0, 1]]), t[:, :2], torch.tensor([0.3], dtype=torch.float64).log(), t[:, token])
        plain_loss(hidden, eye, targets, torch.tensor([token]), torch.ones(1).double(), config).loss_sum.backward()
        kept = torch.zeros(4, dtype=torch.float64)  # r = 0 there
        outside = r[token] * (torch.eye(4).double()[token] - s.exp()[0]) if token > 1 else kept
        assert torch.allclose(hidden.grad[0], kept + outside, atol=1e-12)
        s_bucket = s.clone().requires_grad_()
        bucket = config.model_copy(update={"tail": "bucket"})
        plain_loss(s_bucket, eye, targets, torch.tensor([token]), torch.ones(1).double(), bucket).loss_sum.backward()
        assert s_bucket.grad.abs().max() < 1e-12 < full.abs().max()  # both tails are .3: the bucket sees nothing at all


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("more", [{}, {"softcap": 5.0}, {"scale_by_temperature_squared": True, "temperature": 1.3}])
def test_both_paths_agree_for_every_token(side, more):
    student, teacher = logits(3), logits(4)
    for token in range(V):
        (one, a), (two, b) = (gradient_of(path, side, "sampled", student, teacher, token, **more) for path in PATHS)
        assert torch.allclose(a, b, atol=1e-9) and torch.allclose(one.loss_sum, two.loss_sum, atol=1e-9)


@pytest.mark.parametrize("bound", ["token_reweight", "token_clip", "ratio_clip"])
def test_bounds_act_on_the_estimate_in_both_paths(bound):
    student, teacher = logits(5), logits(6)
    head, tokens = Head(torch.eye(V, dtype=torch.float64)), torch.tensor([1, 5, 9])
    config = settings("student", "sampled").model_copy(update={"bound": bound, "bound_threshold": 0.2})
    found = []
    for path in PATHS:
        hidden = student.clone().requires_grad_()
        path(hidden, head, HiddenTargets(teacher, head), tokens, torch.ones(3, dtype=torch.float64), config).loss_sum.backward()
        found.append(hidden.grad)
    assert torch.allclose(*found, atol=1e-9) and found[0].abs().max() > 0


@pytest.mark.parametrize("side", SIDES)
def test_a_teacher_that_is_the_student_gives_exactly_nothing(side):
    student = logits(7)
    for path in PATHS:
        for token in (0, 7, V - 1):
            result, gradient = gradient_of(path, side, "sampled", student, student, token)
            assert result.loss_sum.abs() < 1e-12 and gradient.abs().max() < 1e-12


def test_everything_kept_is_the_full_divergence_whoever_is_sampled():
    student, teacher = logits(8), logits(9)
    head, ones = Head(torch.eye(V, dtype=torch.float64)), torch.ones(3, dtype=torch.float64)
    chosen = {"targets": "online", "top_k_of": "union", "tail": "sampled"}
    config = DistillationConfig(divergence="jsd", beta=1.0, bound="none", top_k=V, **chosen)
    hidden = student.clone().requires_grad_()
    full = FullTargets(torch.log_softmax(teacher, -1))
    distillation_loss(hidden, head, full, torch.tensor([0, 1, 2]), ones, config).loss_sum.backward()
    assert torch.allclose(hidden.grad, full_gradient(student, teacher), atol=1e-10)


@pytest.mark.parametrize("top_k", [2, 8, 32])
def test_on_stored_targets_of_two_models_the_bias_is_gone(top_k):
    """Recorded by the product for every token that the policy could have written at one position."""
    student, teacher = small_policy(0), small_policy(1)
    prompt, size = student.tokenizer.encode("7+8="), len(student.tokenizer)
    rollouts = [rollout_of("a", n, "", prompt, [n]) for n in range(size)]
    made = score_targets(FixedTeacher(teacher), rollouts, [prompt] * size, top_k, Transform(), 512)
    ids = torch.tensor([prompt])
    z, t = (policy.causal_lm(input_ids=ids).logits[:, -1].detach().double() for policy in (student, teacher))
    wanted, found = full_gradient(z, t), {}
    for tail in ("bucket", "sampled"):
        config = DistillationConfig(divergence="reverse_kl", bound="none", top_k=top_k, tail=tail)
        found[tail] = torch.zeros_like(z)
        for token, target in enumerate(made):
            hidden = z.clone().requires_grad_()
            kept = (target.topk_ids_TK.astype("int64"), target.topk_logprobs_TK)
            columns = (*kept, target.tail_logprob_T, target.sampled_logprob_T)
            targets = TopKTargets(*map(torch.from_numpy, columns))
            head, one = Head(torch.eye(size, dtype=torch.float64)), torch.ones(1, dtype=torch.float64)
            plain_loss(hidden, head, targets, torch.tensor([token]), one, config).loss_sum.backward()
            found[tail] += torch.softmax(z, -1)[0, token] * hidden.grad
    bias = {tail: ((gradient - wanted).norm() / wanted.norm()).item() for tail, gradient in found.items()}
    assert bias["sampled"] < 1e-5 < 0.01 < bias["bucket"], bias


def test_what_the_tail_needs_is_said():
    reverse = {"divergence": "reverse_kl", "tail": "sampled"}
    for changes, message in (
        ({"distillation": reverse | {"divergence": "forward_kl"}}, r"tail=sampled with distillation\.divergence=forward_kl"),
        ({"distillation": reverse | {"divergence": "jsd"}}, r"tail=sampled with distillation\.divergence=jsd"),
        ({"distillation": reverse, "rollout": {"on_policy_fraction": 0.5}}, r"tail=sampled with rollout\.on_policy_fraction"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve("tiny", changes)
    assert not list(risks(resolve("tiny", {"distillation": reverse})))
    for other in ({"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 20}):
        (said,) = risks(resolve("tiny", {"distillation": reverse, "rollout": other}))
        assert "distillation.tail=sampled" in said
    targets = top_k_targets(logits(1), 4)
    with pytest.raises(DataError, match="tail=sampled needs the teacher's log-probability of each sampled token"):
        config = DistillationConfig(**reverse)
        distillation_loss(logits(2), Head(torch.eye(V).double()), targets, torch.tensor([1, 2, 3]), torch.ones(3), config)
