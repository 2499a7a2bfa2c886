"""End tokens as one event: pytest tests/core/objective/test_objective_stops.py"""

from dataclasses import replace

import pytest
import torch

from opsd_core.config.method import DistillationConfig
from opsd_core.objective import FullTargets, Head, HiddenTargets, Stops, distillation_loss
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.merging import merged
from opsd_core.objective.plain import plain_loss, project
from opsd_core.objective.rows import Tiles
from tests.core.objective.test_objective_oracle import CHOICES, SUPPORTS, config_for
from tests.core.objective_oracle import columns, evaluate, oracle, problem, recorded

PATHS = (plain_loss, fused_loss)
SMALL = Tiles(rows=4, width=16)
SETS = {
    "teacher_has_one_more": ((7,), (7, 9)),
    "student_has_one_more": ((7, 9), (7,)),
    "disjoint": ((20,), (3, 41)),
    "equal": ((7, 9), (7, 9)),
    "overlapping": ((7, 9, 33), (9, 50)),
}


def ending(sets, **settings) -> dict:
    """A problem in which the student wrote an end token of each side."""
    student, teacher = SETS[sets]
    case = problem(tokens=5, **settings)
    case["ids"][0], case["ids"][2] = student[0], teacher[-1]
    return case | {"stops": Stops.of(student, [teacher])}


def targets_for(case, config):
    if config.targets == "recorded":
        return recorded(case, config.temperature, case["stops"])
    return replace(case["online"], stops=case["stops"])


def assert_matches_oracle(case, config, paths=PATHS):
    targets = targets_for(case, config)
    expected = oracle(case, targets, config)
    counted = case["weights"] != 0
    for path in paths:
        options = {"tiles": SMALL} if path is fused_loss else {}
        rows, of = (counted, _counted(case, counted)) if path is not distillation_loss else (slice(None), case)
        found = targets if path is distillation_loss else targets_for(of, config)
        result, grads = evaluate(path, of, found, config, **options)
        torch.testing.assert_close(result.loss_sum.double(), expected["loss"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(columns(result), expected["columns"][:, rows], atol=1e-5, rtol=1e-5)
        for index, (grad, reference) in enumerate(zip(grads, expected["grads"], strict=True)):
            wanted = reference[rows] if index == 0 else reference
            torch.testing.assert_close(grad.double(), wanted, atol=1e-5, rtol=1e-5)


def _counted(case, rows):
    online = replace(case["online"], hidden_NH=case["online"].hidden_NH[rows])
    return case | {name: case[name][rows] for name in ("hidden", "ids", "weights")} | {"online": online}


@pytest.mark.parametrize("support", ["recorded", "full", "union"])
@pytest.mark.parametrize(("divergence", "bound"), CHOICES)
def test_every_combination(divergence, support, bound):
    config = config_for(support, divergence=divergence, bound=bound, scale_by_temperature_squared=True)
    assert_matches_oracle(ending("teacher_has_one_more"), config)


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "sampled_token"])
def test_every_relation_of_the_two_sets(divergence, support, sets):
    assert_matches_oracle(ending(sets, seed=2), config_for(support, divergence=divergence, bound="none"))


@pytest.mark.parametrize("sets", ["disjoint", "student_has_one_more"])
@pytest.mark.parametrize("support", ["recorded", "full", "union"])
@pytest.mark.parametrize("divergence", ["jsd", "sampled_token"])
def test_bias_soft_cap_and_scaled_heads(divergence, support, sets):
    case = ending(sets, bias=True, softcap=4.0, head_scale=1.7, seed=3)
    assert_matches_oracle(case, config_for(support, divergence=divergence), (*PATHS, distillation_loss))


def logits(**of: float) -> torch.Tensor:
    """One row of 12 logits: 0 but for the named tokens."""
    row = torch.zeros(1, 12, dtype=torch.float64)
    for name, value in of.items():
        row[0, int(name[1:])] = value
    return row


def probability_of_stopping(stops, path, divergence, steps=60) -> list[float]:
    """S(7) at each step of gradient descent on one position, where the teacher ends with 9 and the student with 7."""
    student = logits(t7=3.0).requires_grad_()
    identity = torch.eye(12, dtype=torch.float64)
    teacher = HiddenTargets(logits(t7=-8.0, t9=4.0), Head(identity), stops=stops)
    config = DistillationConfig(targets="online", divergence=divergence, bound="none")
    seen = []
    for _ in range(steps):
        seen.append(float(student.detach().softmax(-1)[0, 7]))
        loss = path(student, Head(identity), teacher, torch.tensor([7]), torch.ones(1), config).loss_sum
        (gradient,) = torch.autograd.grad(loss, student)
        student = (student - 0.5 * gradient).detach().requires_grad_()
    return seen


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "sampled_token"])
def test_twins_unmerged_the_stop_is_unlearned_and_merged_it_holds(divergence, path):
    """Both sides want to stop, E_S = {7}, E_T = {7, 9}, and the teacher writes 9."""
    unmerged = probability_of_stopping(None, path, divergence)
    kept = probability_of_stopping(Stops.of([7], [[7, 9]]), path, divergence)
    assert unmerged[0] == kept[0] > 0.6
    assert unmerged[-1] < 0.5 * unmerged[0]
    assert min(kept) >= kept[0] - 1e-6 and kept[-1] > 0.7


@pytest.mark.parametrize("path", PATHS)
def test_the_stop_is_punished_by_tens_of_nats_unmerged(path):
    student, identity = logits(t7=5.0), torch.eye(12, dtype=torch.float64)
    teacher = HiddenTargets(logits(t7=-20.0, t9=5.0), Head(identity))
    config = DistillationConfig(targets="online", divergence="sampled_token", bound="none")
    rows = (torch.tensor([7]), torch.ones(1), config)
    apart = path(student, Head(identity), teacher, *rows)
    together = path(student, Head(identity), replace(teacher, stops=Stops.of([7], [[7, 9]])), *rows)
    assert float(apart.bounded_N) > 20 and abs(float(together.bounded_N)) < 0.1
    assert float(together.logprobs_N) == pytest.approx(float(apart.logprobs_N))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_mass_on_the_teachers_end_token_is_no_stop_of_the_students(divergence, path):
    """The student goes on behind a 9: to move its stop there must not satisfy a teacher who stops."""
    identity = torch.eye(12, dtype=torch.float64)
    student = logits(t9=4.0, t7=-2.0).requires_grad_()
    teacher = HiddenTargets(logits(t9=4.0), Head(identity), stops=Stops.of([7], [[7, 9]]))
    config = DistillationConfig(targets="online", divergence=divergence, bound="none")
    rows = (Head(identity), teacher, torch.tensor([1]), torch.ones(1), config)
    path(student, *rows).loss_sum.backward()
    assert student.grad[0, 9] > 0 > student.grad[0, 7]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix", "sampled_token"])
@pytest.mark.parametrize("support", ["full", "teacher", "union"])
def test_a_side_against_itself_is_exactly_zero(support, divergence, path):
    case = problem(tokens=7, seed=5)
    case["ids"][0] = 9
    same = HiddenTargets(case["hidden"], case["head"], stops=Stops.of([7, 9], [[7, 9]]))
    config = DistillationConfig(targets="online", divergence=divergence, bound="none", top_k_of=support, top_k=5)
    result, grads = evaluate(path, case, same, config)
    exact = support == "full" and divergence != "sampled_token"  # the others sum one side in another order than the other
    assert result.divergence_N.abs().max() <= (0 if exact else 1e-6)
    assert all(grad.abs().max() < 1e-5 for grad in grads)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl"])
@pytest.mark.parametrize("path", PATHS)
def test_merging_never_raises_a_divergence(path, divergence):
    case = ending("equal", seed=6)
    config = DistillationConfig(targets="online", divergence=divergence, bound="none")
    apart, _ = evaluate(path, case, case["online"], config)
    together, _ = evaluate(path, case, targets_for(case, config), config)
    assert (together.divergence_N <= apart.divergence_N + 1e-6).all()


def test_one_end_token_on_both_sides_is_no_event_to_merge():
    assert Stops.of([2], [[2]]) is None and Stops.of([2], []) is None and Stops.of([2, 2], [(2,)]) is None


def test_the_columns_of_events():
    stops = Stops.of([7], [[7, 9], [11]])
    assert (stops.entry, stops.leftover, stops.layout) == (7, 9, (7, 9, 11))
    assert Stops.of([7, 9], [[7, 9]]).layout == (7, -1, 9)
    assert stops.event_ids(torch.tensor([7, 9, 11, 3])).tolist() == [7, 9, 9, 3]
    assert stops.taught_by([1]).members == ((11,),) and stops.taught_by([1]).layout == stops.layout


def test_merging_keeps_a_distribution():
    logprobs = torch.log_softmax(3 * torch.randn(5, 40, dtype=torch.float64), -1)
    for student, teacher in SETS.values():
        stops = Stops.of([i % 40 for i in student], [[i % 40 for i in teacher]])
        for own in (stops.student, *stops.members):
            torch.testing.assert_close(merged(logprobs, own, stops).exp().sum(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("top_k_of", ["full", "union"])
def test_whole_distributions_agree_with_projected_ones(top_k_of):
    case = ending("disjoint", seed=8)
    config = DistillationConfig(targets="online", top_k_of=top_k_of, top_k=5, divergence="jsd", temperature=1.2)
    online, stops = case["online"], case["stops"]
    whole = merged(project(online.hidden_NH, online.head, online.temperature * 1.2), stops.members[0], stops)
    for path in PATHS:
        expected, expected_grads = evaluate(path, case, replace(online, stops=stops), config)
        result, grads = evaluate(path, case, FullTargets(whole, stops), config)
        torch.testing.assert_close(result.bounded_N, expected.bounded_N, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(grads, expected_grads, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("support", SUPPORTS)
def test_microbatches_add_up(support):
    case = ending("overlapping", seed=9)
    config = config_for(support, divergence="reverse_kl")
    whole, _ = evaluate(distillation_loss, case, targets_for(case, config), config)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        of = _counted(case, rows)
        parts.append(evaluate(distillation_loss, of, targets_for(of, config), config)[0].loss_sum)
    torch.testing.assert_close(sum(parts), whole.loss_sum)
