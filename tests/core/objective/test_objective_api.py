"""distillation_loss: nothing to learn from oneself, masks, splits, errors: pytest tests/core/objective/test_objective_api.py"""

import math

import pytest
import torch

from opsd_core import objective
from opsd_core.config.method import DistillationConfig
from opsd_core.errors import DataError
from opsd_core.objective import Head, HiddenTargets, TopKTargets, distillation_loss
from opsd_core.objective.divergences import DIVERGENCES
from opsd_core.objective.fused import default_tiles, fused_loss
from opsd_core.objective.plain import plain_loss, project
from opsd_core.objective.rows import Tiles
from opsd_core.objective.supports import top_k_targets
from tests.core.objective_oracle import columns, evaluate, problem, recorded

PATHS = (plain_loss, fused_loss)
SUPPORTS = ("recorded", "full", "teacher", "student", "union")


def config_for(support, **settings):
    if support == "recorded":
        return DistillationConfig(**settings)
    return DistillationConfig(targets="online", top_k_of=support, **settings)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bound", ["none", "token_reweight", "ratio_clip"])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("divergence", [*DIVERGENCES, "jsd0", "jsd1"])
def test_identical_teacher_gives_no_loss_and_no_gradient(divergence, support, bound, path):
    """Teacher = student at the same temperature: loss <= 1e-6 per token and gradient <= 1e-5 for every choice."""
    settings = {"divergence": divergence[:3], "beta": float(divergence[3:])} if divergence[-1].isdigit() else {}
    config = config_for(support, **({"divergence": divergence, "bound": bound, "temperature": 1.1} | settings))
    case = problem(tokens=12, vocabulary=301, seed=9, scale=2.0, bias=True)
    case["weights"] = torch.full((12,), 1 / 12)
    targets = HiddenTargets(case["hidden"], case["head"])
    if support == "recorded":
        targets = top_k_targets(project(case["hidden"], case["head"], 1.1), 16, case["ids"])
    result, grads = evaluate(path, case, targets, config)
    assert abs(result.loss_sum.item()) <= 1e-6
    assert all(grad.norm().item() <= 1e-5 for grad in grads)


@pytest.mark.parametrize("support", SUPPORTS)
def test_masked_rows_may_hold_anything(support):
    """Weight 0: nan hidden states, an impossible token id and nan targets change nothing and get gradient 0."""
    config = config_for(support, divergence="jsd", top_k=5)
    case = problem()
    masked = case["weights"] == 0
    targets = recorded(case, 1.0) if support == "recorded" else case["online"]
    expected, expected_grads = evaluate(distillation_loss, case, targets, config)
    case["hidden"] = case["hidden"].masked_fill(masked[:, None], math.nan)
    case["ids"] = case["ids"].masked_fill(masked, -100)
    if support == "recorded":
        targets.logprobs_NK[masked] = math.nan
    else:
        targets.hidden_NH[masked] = math.nan
    result, grads = evaluate(distillation_loss, case, targets, config)
    assert masked.any() and torch.equal(result.loss_sum, expected.loss_sum)
    assert torch.equal(columns(result), columns(expected)) and (columns(result)[:, masked] == 0).all()
    assert all(torch.equal(grad, reference) for grad, reference in zip(grads, expected_grads, strict=True))
    assert (grads[0][masked] == 0).all()


@pytest.mark.parametrize("support", ["recorded", "full"])
def test_nothing_to_learn_from_is_zero_with_zero_gradients(support):
    case = problem(bias=True)
    case["weights"] = torch.zeros(len(case["ids"]))
    targets = recorded(case, 1.0) if support == "recorded" else case["online"]
    result, grads = evaluate(distillation_loss, case, targets, config_for(support))
    assert result.loss_sum.item() == 0 and all((grad == 0).all() for grad in grads)
    assert len(result.bounded_N) == len(case["ids"])


@pytest.mark.parametrize("support", ["recorded", "full", "union"])
def test_microbatches_add_up(support):
    """Sums over pieces of unequal length equal the sum over the whole; so do gradients and columns."""
    config = config_for(support, divergence="reverse_kl", top_k=5)
    case = problem(tokens=20, seed=12)
    targets = recorded(case, 1.0) if support == "recorded" else case["online"]
    whole, (whole_hidden, whole_weight) = evaluate(distillation_loss, case, targets, config)
    pieces, hidden, weight = [], [], 0
    for piece in (slice(0, 1), slice(1, 4), slice(4, 20)):
        part = case | {name: case[name][piece] for name in ("hidden", "ids", "weights")}
        rows = {n: v[piece] if n.endswith(("_N", "_NK", "_NH")) else v for n, v in vars(targets).items()}
        result, grads = evaluate(distillation_loss, part, type(targets)(**rows), config)
        pieces.append(result)
        hidden.append(grads[0])
        weight = weight + grads[1]
    torch.testing.assert_close(sum(piece.loss_sum for piece in pieces), whole.loss_sum, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.cat([columns(piece) for piece in pieces], dim=1), columns(whole), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(torch.cat(hidden), whole_hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weight, whole_weight, atol=1e-5, rtol=1e-5)


def test_loss_is_the_weighted_sum_of_bounded_values():
    case = problem()
    config = DistillationConfig(
        targets="online", temperature=2.0, scale_by_temperature_squared=True, bound_threshold=0.1
    )
    result = distillation_loss(case["hidden"], case["head"], case["online"], case["ids"], case["weights"], config)
    assert result.loss_sum.item() == pytest.approx((case["weights"] * result.bounded_N).sum().item(), rel=1e-6)
    assert result.bounded_N.max().item() == pytest.approx(0.1 * 4, rel=1e-5)
    assert result.teacher_logprobs_N.shape == result.logprobs_N.shape


@pytest.mark.parametrize("path", PATHS)
def test_shifting_the_teacher_by_one_position_raises_the_loss(path):
    case = problem(tokens=20, seed=13)
    case["weights"] = torch.ones(20)
    config = DistillationConfig(targets="online", bound="none")
    shifted = HiddenTargets(case["online"].hidden_NH.roll(1, 0), case["online"].head, case["online"].temperature)
    aligned_loss = evaluate(path, case, case["online"], config)[0].loss_sum
    assert evaluate(path, case, shifted, config)[0].loss_sum > 1.5 * aligned_loss


@pytest.mark.parametrize("path", PATHS)
def test_no_gradient_reaches_the_teacher(path):
    case = problem()
    hidden, weight = case["online"].hidden_NH.clone().requires_grad_(), case["head"].weight_VH.clone().requires_grad_()
    targets = HiddenTargets(hidden, Head(weight))
    evaluate(path, case, targets, DistillationConfig(targets="online"))
    assert hidden.grad is None and weight.grad is None


@pytest.mark.parametrize("path", PATHS)
def test_frozen_head_and_evaluation_without_gradients(path):
    case = problem()
    config = DistillationConfig(targets="online")
    arguments = (case["head"], case["online"], case["ids"], case["weights"], config)
    hidden = case["hidden"].clone().requires_grad_()
    result = path(hidden, *arguments)
    result.loss_sum.backward()
    assert case["head"].weight_VH.grad is None and hidden.grad is not None
    with torch.no_grad():
        silent = path(hidden, *arguments)
    assert not silent.loss_sum.requires_grad
    torch.testing.assert_close(silent.loss_sum, result.loss_sum.detach())
    assert not any(getattr(result, name).requires_grad for name in ("divergence_N", "bounded_N", "logprobs_N"))


def test_fused_scales_by_the_incoming_gradient_once():
    case = problem()
    config = DistillationConfig(targets="online")
    hidden = case["hidden"].clone().requires_grad_()
    arguments = (case["head"], case["online"], case["ids"], case["weights"], config, Tiles(4, 16))
    loss = fused_loss(hidden, *arguments).loss_sum
    (loss * 3.0).backward(retain_graph=True)
    tripled = hidden.grad.clone()
    hidden.grad = None
    fused_loss(hidden, *arguments).loss_sum.backward()
    torch.testing.assert_close(tripled, 3 * hidden.grad)
    with pytest.raises(RuntimeError, match="differentiated a second time"):
        loss.backward()


@pytest.mark.parametrize("size", [{"tokens": 11}, {"tokens": 300, "vocabulary": 4099}])
def test_autocast_does_not_lower_the_precision(size):
    case = problem(**size)
    config = DistillationConfig(targets="online", divergence="reverse_kl")
    expected, _ = evaluate(distillation_loss, case, case["online"], config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, _ = evaluate(distillation_loss, case, case["online"], config)
    assert torch.equal(result.loss_sum, expected.loss_sum)


def test_large_inputs_take_strips_and_agree_with_whole_logits():
    """The public function on 300 x 4,099 > PLAIN_MAX_LOGITS entries, two strips, an odd vocabulary."""
    case = problem(tokens=300, vocabulary=4099, hidden=16, seed=14, bias=True)
    assert (case["weights"] != 0).sum() * 4099 > 0.8 * objective.PLAIN_MAX_LOGITS
    case["weights"][:] = case["weights"] + 0.1
    config = DistillationConfig(targets="online", divergence="jsd")
    expected, expected_grads = evaluate(plain_loss, case, case["online"], config)
    result, grads = evaluate(distillation_loss, case, case["online"], config)
    assert "FusedLoss" in type(result.loss_sum.grad_fn).__name__
    torch.testing.assert_close(columns(result), columns(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grads, expected_grads, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hidden", [1, 576, 1024, 4096])
@pytest.mark.parametrize("vocabulary", [2, 512, 49_152, 151_936, 50_000_000])
def test_default_strips_fit_their_budget(vocabulary, hidden):
    """48 MiB, or a quarter of the head; and no head is read for a few rows alone, as a large one was."""
    tiles = default_tiles(vocabulary, hidden, torch.device("cpu"))
    assert 1 <= tiles.rows <= 256 and 1 <= tiles.width <= max(vocabulary, 256)
    assert tiles.rows == 1 or tiles.rows * vocabulary * 4 <= max(48 * 2**20, vocabulary * hidden)
    assert tiles.rows > min(hidden // 4, 256) - 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.zeros(3, dtype=torch.int64)}, "token_ids_N"),
        ({"weights": torch.ones(4)}, "weights_N"),
        ({"hidden": torch.zeros(11, 8)}, r"\(11, 8\)"),
    ],
)
def test_mismatched_shapes_are_named(change, message):
    case = problem() | change
    with pytest.raises(DataError, match=message):
        evaluate(distillation_loss, case, case["online"], DistillationConfig(targets="online"))


def test_different_vocabularies_are_refused():
    case, other = problem(), problem(vocabulary=54)
    with pytest.raises(DataError, match="53 entries and the teacher's 54"):
        evaluate(distillation_loss, case, other["online"], DistillationConfig(targets="online"))


def test_sampled_token_needs_the_recorded_log_probability():
    case = problem()
    targets = TopKTargets(*(getattr(recorded(case, 1.0), name) for name in ("ids_NK", "logprobs_NK", "tail_logprob_N")))
    with pytest.raises(DataError, match="sampled_logprob_N"):
        evaluate(distillation_loss, case, targets, DistillationConfig(divergence="sampled_token"))
