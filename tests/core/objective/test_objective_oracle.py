"""Both paths against a float64 oracle, value and gradient: pytest tests/core/objective/test_objective_oracle.py"""

from itertools import product

import pytest
import torch

from opsd_core.config.method import DistillationConfig
from opsd_core.objective import Head, HiddenTargets, distillation_loss
from opsd_core.objective.divergences import DIVERGENCES
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.plain import plain_loss
from opsd_core.objective.rows import Tiles
from tests.core.objective_oracle import columns, evaluate, oracle, problem, recorded

SMALL = Tiles(rows=4, width=16)
BOUNDS = ("none", "token_reweight", "token_clip", "entry_clip", "ratio_clip")
CHOICES = [pair for pair in product(DIVERGENCES, BOUNDS) if pair != ("sampled_token", "entry_clip")]
"""The configuration refuses that pair: the sampled token is the only entry."""
SUPPORTS = ("recorded", "full", "teacher", "student", "union")


def config_for(support, **settings):
    base = {"temperature": 1.3, "bound_threshold": 0.2, "top_k": 5, "beta": 0.3}
    if support == "recorded":
        return DistillationConfig(targets="recorded", **(base | settings))
    return DistillationConfig(targets="online", top_k_of=support, **(base | settings))


def targets_for(case, config):
    return case["online"] if config.targets == "online" else recorded(case, config.temperature)


def assert_matches(case, config, paths, tolerance=1e-5, targets=None):
    targets = targets or targets_for(case, config)
    expected = oracle(case, targets, config)
    for path in paths:
        _assert_path_matches(case, config, path, expected, targets, tolerance)


def _assert_path_matches(case, config, path, expected, targets, tolerance):
    keep = case["weights"] != 0
    options = {"tiles": SMALL} if path is fused_loss else {}
    rows = slice(None)
    if path is not distillation_loss:
        rows, targets = keep, _rows(targets, keep)
        case = case | {name: case[name][keep] for name in ("hidden", "ids", "weights")}
    result, grads = evaluate(path, case, targets, config, **options)
    torch.testing.assert_close(result.loss_sum.double(), expected["loss"], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(columns(result), expected["columns"][:, rows], atol=tolerance, rtol=tolerance)
    for index, (grad, reference) in enumerate(zip(grads, expected["grads"], strict=True)):
        reference = reference[rows] if index == 0 else reference
        torch.testing.assert_close(grad.double(), reference, atol=tolerance, rtol=tolerance)


def _rows(targets, keep):
    fields = {
        name: value[keep] if name.endswith(("_N", "_NK", "_NH")) else value for name, value in vars(targets).items()
    }
    return type(targets)(**fields)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize(("divergence", "bound"), CHOICES)
def test_every_combination(divergence, support, bound):
    config = config_for(support, divergence=divergence, bound=bound, scale_by_temperature_squared=True)
    assert_matches(problem(tokens=6), config, (plain_loss, fused_loss))


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("support", ["recorded", "full", "union"])
@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_bias_and_soft_cap(divergence, support, bias, softcap):
    config = config_for(support, divergence=divergence)
    case = problem(tokens=6, bias=bias, softcap=softcap, seed=3)
    assert_matches(case, config, (plain_loss, fused_loss, distillation_loss))


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("support", ["recorded", "full", "union"])
@pytest.mark.parametrize("head_scale", [0.125, 1.7])
def test_scaled_heads(support, head_scale, bias, softcap):
    """Granite, Cohere and Falcon-H1 multiply logits behind the projection; the teacher's factor is another."""
    case = problem(tokens=6, bias=bias, softcap=softcap, seed=3, head_scale=head_scale)
    assert_matches(case, config_for(support, divergence="jsd"), (plain_loss, fused_loss, distillation_loss))


@pytest.mark.parametrize("path", [plain_loss, fused_loss])
@pytest.mark.parametrize("support", SUPPORTS)
def test_half_precision_inputs_are_computed_in_single(support, path):
    """The oracle reads the same bfloat16 numbers; a gradient has two roundings to bfloat16 (the operand's, the result's)."""
    config = config_for(support, divergence="reverse_kl", bound="none")
    case = problem(dtype=torch.bfloat16, seed=5)
    targets = targets_for(case, config)
    expected = oracle(case, targets, config)
    keep = case["weights"] != 0
    case = case | {name: case[name][keep] for name in ("hidden", "ids", "weights")}
    options = {"tiles": SMALL} if path is fused_loss else {}
    result, grads = evaluate(path, case, _rows(targets, keep), config, **options)
    torch.testing.assert_close(result.loss_sum.double(), expected["loss"], atol=1e-5, rtol=1e-5)
    assert [grad.dtype for grad in grads] == [torch.bfloat16] * 2
    assert (grads[1].double() - expected["grads"][1]).norm() < 2 * 2**-8 * expected["grads"][1].norm()


@pytest.mark.parametrize("support", ["recorded", "full", "student"])
@pytest.mark.parametrize("tiles", [Tiles(1, 1), Tiles(3, 7), Tiles(64, 53), Tiles(100, 1000)])
def test_any_tiling_gives_the_same(support, tiles):
    config = config_for(support, divergence="jsd")
    case = problem(bias=True, softcap=6.0)
    reference, reference_grads = evaluate(plain_loss, case, targets_for(case, config), config)
    result, grads = evaluate(fused_loss, case, targets_for(case, config), config, tiles=tiles)
    torch.testing.assert_close(columns(result), columns(reference), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grads, reference_grads, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl"])
@pytest.mark.parametrize("support", ["full", "union", "recorded"])
def test_peaked_distributions(divergence, support):
    """Logits of standard deviation 20: probabilities down to e^-100, tails at the floor, nothing overflows.

    The float32 logits themselves are only good to about 1e-5 here (24 bits of a number near 60), hence 1e-4.
    """
    config = config_for(support, divergence=divergence, bound="token_reweight", bound_threshold=1.0)
    assert_matches(problem(scale=8.0, seed=7), config, (plain_loss, fused_loss), tolerance=1e-4)


def test_shared_head_is_projected_once_and_gives_the_same():
    """Same weight tensor on both sides (frozen head): the stacked product equals two separate ones."""
    config = config_for("full", divergence="jsd")
    case = problem(bias=True)
    shared = Head(case["head"].weight_VH.detach(), case["head"].bias_V, None)
    tied = HiddenTargets(case["online"].hidden_NH, shared, 0.8)
    hidden = case["hidden"].clone().requires_grad_()
    copied = HiddenTargets(tied.hidden_NH, Head(shared.weight_VH.clone(), shared.bias_V, None), 0.8)
    losses = []
    for targets in (tied, copied):
        hidden.grad = None
        fused_loss(hidden, shared, targets, case["ids"], case["weights"], config, SMALL).loss_sum.backward()
        losses.append(hidden.grad.clone())
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)
    assert_matches(case, config, (fused_loss,), targets=tied)


@pytest.mark.parametrize("path", [plain_loss, fused_loss])
def test_tied_embeddings_receive_both_gradients(path):
    """The head is also the embedding table: d loss / d table = through the lookup + through the projection."""
    config = config_for("full", divergence="forward_kl", bound="none")
    case = problem()
    lookup = torch.arange(len(case["ids"]))
    table = case["head"].weight_VH.clone().requires_grad_()
    path(table[lookup], Head(table), case["online"], case["ids"], case["weights"], config).loss_sum.backward()
    expected = oracle(case | {"hidden": case["head"].weight_VH[lookup]}, case["online"], config)["grads"]
    total = expected[1].index_add(0, lookup, expected[0])
    torch.testing.assert_close(table.grad.double(), total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [4, 300])
@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_gradients_lose_no_more_than_their_own_rounding(frozen, rows):
    """Over many strips and tiles the relative error stays below one rounding of the result: sums are float32."""
    config = config_for("full", divergence="forward_kl", bound="none")
    case = problem(tokens=40, vocabulary=3001, hidden=32, dtype=torch.bfloat16, seed=8)
    targets = targets_for(case, config)
    expected = oracle(case, targets, config)
    hidden, weight = case["hidden"].detach().requires_grad_(), case["head"].weight_VH.detach().requires_grad_(not frozen)
    head = case["head"]._replace(weight_VH=weight)
    fused_loss(hidden, head, targets, case["ids"], case["weights"], config, Tiles(rows, 128)).loss_sum.backward()
    made = [hidden.grad] if frozen else [hidden.grad, weight.grad]
    for grad, reference in zip(made, expected["grads"], strict=False):
        assert (grad.double() - reference).norm() < 2**-8 * reference.norm()
    assert frozen == (weight.grad is None)
