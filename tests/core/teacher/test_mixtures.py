"""pytest tests/core/teacher/test_mixtures.py — truncation and mixtures against arithmetic, and as targets of the objective."""

import math

import pytest
import torch

from opsd_core.config import resolve
from opsd_core.errors import DataError
from opsd_core.models.forward import completion_hidden
from opsd_core.objective import FullTargets, HiddenTargets, distillation_loss
from opsd_core.objective.types import LOG_ZERO
from opsd_core.teacher.mixtures import MIXTURES, WEIGHTINGS, Transform, confidence_weights, truncate
from opsd_core.teacher.scoring import members_hidden, online_targets, score_targets, stack_targets, teacher_logprobs
from opsd_core.teacher.teachers import FixedTeacher, PeersTeacher
from tests.core.small import rollout_of, small_policy
from tests.core.training.test_trainer import TEXTS, items

P = torch.tensor([[0.5, 0.3, 0.15, 0.05]])


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 0, [0.5, 0.3, 0.15, 0.05]),
        (0.7, 0, [5 / 8, 3 / 8, 0, 0]),  # 0.5 < 0.7 <= 0.8
        (0.81, 0, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (0.01, 0, [1, 0, 0, 0]),  # the largest always stays
        (1.0, 2, [5 / 8, 3 / 8, 0, 0]),
        (1.0, 9, [0.5, 0.3, 0.15, 0.05]),
        (0.6, 2, [1, 0, 0, 0]),  # of the renormalised two, 5/8 is already 0.6
    ],
)
def test_truncation_by_hand(top_p, top_k, kept):
    logprobs = truncate(P.log(), top_p, top_k)
    assert torch.allclose(logprobs.exp(), torch.tensor([kept], dtype=torch.float32), atol=1e-6)
    assert (logprobs[logprobs.exp() == 0] == LOG_ZERO).all()


def test_mixtures_by_hand():
    """p = (.9, .1), q = (.1, .9), weights (.75, .25): arithmetic .75*.9 + .25*.1 = .7; geometric odds 9^.75 / 9^.25 = 3."""
    members = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.1, 0.9]]).log()]
    weights = torch.tensor([[0.75], [0.25]])
    assert MIXTURES["arithmetic"](members, weights).exp()[0].tolist() == pytest.approx([0.7, 0.3], abs=1e-6)
    assert MIXTURES["geometric"](members, weights).exp()[0].tolist() == pytest.approx([0.75, 0.25], abs=1e-6)


def test_only_the_geometric_mixture_lets_a_member_veto():
    members = [torch.tensor([[1.0, 0.0]]).log().clamp(min=LOG_ZERO), torch.tensor([[0.5, 0.5]]).log()]
    weights = WEIGHTINGS["uniform"](members)
    assert MIXTURES["arithmetic"](members, weights).exp()[0, 1].item() == pytest.approx(0.25)
    assert MIXTURES["geometric"](members, weights).exp()[0, 1].item() == 0.0


def test_confidence_weights_are_a_softmax_of_negative_entropy():
    """Entropies 0 and log 2: weights 1 / (1 + 1/2) = 2/3 and 1/3."""
    members = [torch.tensor([[1.0, 0.0]]).log().clamp(min=LOG_ZERO), torch.tensor([[0.5, 0.5]]).log()]
    assert confidence_weights(members)[:, 0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)


@pytest.mark.parametrize("mixture", sorted(MIXTURES))
def test_identical_peers_teach_what_one_of_them_does(mixture):
    policy = small_policy(1)
    batch = items(policy, hint="9|")
    sides = [i.teacher_prompt_ids for i in batch], [i.completion_ids for i in batch]
    for weighting in WEIGHTINGS:
        peers = PeersTeacher([policy, small_policy(1)], mixture, weighting)
        mixed = teacher_logprobs(peers, members_hidden(peers, *sides), Transform(0.8))
        one = FixedTeacher(policy)
        alone = teacher_logprobs(one, members_hidden(one, *sides), Transform(0.8))
        assert torch.allclose(mixed, alone, atol=1e-4)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix", "sampled_token"])
def test_full_targets_give_what_hidden_targets_do(divergence):
    """The same distribution in two forms: same loss and same gradient."""
    settings = resolve("tiny", {"distillation": {"targets": "online", "divergence": divergence, "temperature": 1.3}})
    student, other = small_policy(0), small_policy(1)
    prompts = [student.tokenizer.encode(p) for p, _ in TEXTS]
    completions = [student.tokenizer.encode(c) for _, c in TEXTS]
    tokens = torch.tensor([t for c in completions for t in c])
    weights = torch.ones(len(tokens))
    weights[1] = 0.0
    teacher, transform = FixedTeacher(other), Transform(0.9 * 1.3)
    members = members_hidden(teacher, prompts, completions)
    forms = [
        online_targets(teacher, members, transform, 1.3),
        FullTargets(teacher_logprobs(teacher, members, transform).detach()),
    ]
    assert isinstance(forms[0], HiddenTargets) and forms[0].temperature == pytest.approx(0.9)
    found = []
    for targets in forms:
        hidden = completion_hidden(student, prompts, completions).detach().requires_grad_()
        result = distillation_loss(hidden, student.head, targets, tokens, weights, settings.distillation)
        result.loss_sum.backward()
        found.append((result.loss_sum.item(), hidden.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


def test_full_targets_of_another_vocabulary_are_refused():
    student, settings = small_policy(0), resolve("tiny").distillation
    with pytest.raises(DataError, match="different vocabularies"):
        targets = FullTargets(torch.zeros(2, 7))
        distillation_loss(torch.zeros(2, 32), student.head, targets, torch.zeros(2, dtype=torch.long), torch.ones(2), settings)


def test_recorded_and_online_truncated_targets_agree():
    """top_k = 3 recorded in 8 entries: the tail is empty, and the loss is that of the whole truncated distribution."""
    policy, teacher = small_policy(0), FixedTeacher(small_policy(1))
    transform = Transform(1.0, top_k=3)
    batch = items(policy, small_policy(1), hint="9|", top_k=8)
    sides = [i.teacher_prompt_ids for i in batch], [i.completion_ids for i in batch]
    online = online_targets(teacher, members_hidden(teacher, *sides), transform, 1.0)
    assert isinstance(online, FullTargets)
    assert ((online.logprobs_NV.exp() > 0).sum(-1) == 3).all()
    hidden = completion_hidden(policy, [i.prompt_ids for i in batch], sides[1]).detach()
    tokens = torch.tensor([t for c in sides[1] for t in c])
    settings = resolve("tiny").distillation

    rollouts = [rollout_of("x", row, "", completion_ids=item.completion_ids) for row, item in enumerate(batch)]
    recorded = stack_targets(score_targets(teacher, rollouts, sides[0], 8, transform, 64), hidden.device)
    assert torch.isinf(recorded.tail_logprob_N).all()
    losses = [
        distillation_loss(hidden, policy.head, t, tokens, torch.ones(len(tokens)), settings).divergence_N
        for t in (online, recorded)
    ]
    assert torch.allclose(*losses, atol=1e-5) and math.isfinite(losses[0].sum().item())
