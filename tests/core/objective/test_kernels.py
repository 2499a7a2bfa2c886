"""Kernels and products against torch and the float64 oracle: pytest tests/core/objective/test_kernels.py, with -m gpu on CUDA."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from opsd_core.config.method import DistillationConfig
from opsd_core.objective import Head
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.kernels import kernels_for
from opsd_core.objective.products import cpu_multiplies_bfloat16
from opsd_core.objective.rows import Tiles
from opsd_core.objective.trust import agrees
from tests.core.objective_oracle import columns, evaluate, oracle, problem, recorded

ROOT = Path(__file__).resolve().parents[3]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])])
INTERPRETED = """
import torch
from opsd_core.objective.kernel_check import largest_difference
from opsd_core.objective.kernels import rows
print(largest_difference(rows, torch.device("cpu")))
"""


def moved(value, device):
    """The same on the device: tensors, heads and targets."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Head):
        return Head(*(moved(part, device) for part in value))
    if is_dataclass(value):
        return replace(value, **{field.name: moved(getattr(value, field.name), device) for field in fields(value)})
    return value


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
def test_interpreted_kernels_do_what_torch_does():
    """Triton's interpreter runs them on a CPU: every divergence and bound, masked and equal entries, a ragged last block."""
    command = [sys.executable, "-c", INTERPRETED]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 5e-6


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
@pytest.mark.parametrize(("kernel", "constants"), [
    ("_normalise", {}), ("_dense_gradients", {}), ("_tail_gradients", {"GRADIENTS": True}),
    *(("_dense_values", {"KIND": kind, "BOUND": 2}) for kind in range(5)),
])  # fmt: skip
def test_kernels_compile_for_a_gpu_that_is_not_here(kernel, constants, tmp_path, monkeypatch):
    """The whole way to machine code of a Hopper card at a real vocabulary: the interpreter allows what the compiler refuses."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget

    rows = import_module("opsd_core.objective.kernels.rows")
    function = getattr(rows, kernel)
    constants = {"V": 128_256, "BLOCK": 4096, **constants}
    kinds = {"leftover": "i32", "floored": "*i32", **dict.fromkeys(("threshold", "share", "scale"), "fp32")}
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "i32" if "stride" in name else "*fp32")
        for name in function.arg_names
    }
    source = triton.compiler.ASTSource(fn=function, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert len(made.asm["cubin"]) > 1000


def test_a_cpu_and_float64_have_no_kernels():
    assert kernels_for(torch.zeros(2, 8)) is None
    assert kernels_for(torch.zeros(2, 8, dtype=torch.float64)) is None


def broken():
    raise OSError("no compiler")


@pytest.mark.parametrize("difference", [broken, lambda: 1.0, lambda: float("nan")])
def test_what_fails_or_gives_other_numbers_is_not_used_and_said(difference):
    with pytest.warns(RuntimeWarning, match=r"The kernels cannot be used on cpu \(.*\)\. It is slower\."):
        assert not agrees("The kernels", difference, 1e-5, torch.device("cpu"), "It is slower.")


@pytest.mark.gpu
@CUDA
def test_kernels_are_trusted_on_this_gpu():
    assert kernels_for(torch.zeros(2, 8, device="cuda")) is not None


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("support", ["recorded", "full", "union"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "entropy_mix", "sampled_token"])
def test_large_strips_agree_with_the_oracle(divergence, support, dtype, device):
    """Values to 1e-5 for inputs in either dtype; bfloat16 gradients within two of its roundings (the operand's, the result's)."""
    settings = {"targets": "recorded"} if support == "recorded" else {"targets": "online", "top_k_of": support}
    config = DistillationConfig(divergence=divergence, temperature=1.3, top_k=5, beta=0.3, bound="token_reweight", **settings)
    case = problem(tokens=6, vocabulary=601, hidden=16, dtype=dtype)
    case["weights"] += 0.1
    targets = case["online"] if config.targets == "online" else recorded(case, config.temperature)
    expected = oracle(case, targets, config)
    there = {name: moved(value, device) for name, value in case.items()}
    result, grads = evaluate(fused_loss, there, moved(targets, device), config, tiles=Tiles(4, 601))
    torch.testing.assert_close(result.loss_sum.double().cpu(), expected["loss"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(columns(result).cpu(), expected["columns"], atol=1e-5, rtol=1e-5)
    bound = 1e-5 if dtype == torch.float32 else 2 * 2**-8
    for grad, reference in zip(grads, expected["grads"], strict=True):
        assert (grad.double().cpu() - reference).norm() / reference.norm() < bound


@on_each_device
@pytest.mark.parametrize("support", ["recorded", "full"])
def test_autocast_rounds_operands_and_nothing_else(support, device):
    """float32 weights in a bfloat16 region: as if both operands had been bfloat16 numbers on a GPU; values in float32 on a CPU,
    and gradients where it does not multiply bfloat16."""
    settings = {"targets": "recorded"} if support == "recorded" else {"targets": "online"}
    config, case = DistillationConfig(divergence="forward_kl", **settings), problem(tokens=6, vocabulary=601, hidden=16)
    case["weights"] += 0.1
    targets = case["online"] if config.targets == "online" else recorded(case, config.temperature)
    there = {name: moved(value, device) for name, value in case.items()}
    with torch.autocast(device, dtype=torch.bfloat16):
        result, grads = evaluate(fused_loss, there, moved(targets, device), config, tiles=Tiles(4, 601))
    if device == "cuda":
        head = case["head"]._replace(weight_VH=case["head"].weight_VH.bfloat16().float())
        case = case | {"hidden": case["hidden"].bfloat16().float(), "head": head}
        if support == "full":
            teacher = targets.head._replace(weight_VH=targets.head.weight_VH.bfloat16().float())
            targets = replace(targets, hidden_NH=targets.hidden_NH.bfloat16().float(), head=teacher)
    expected = oracle(case, targets, config)
    assert all(grad.dtype == torch.float32 for grad in grads)
    torch.testing.assert_close(result.loss_sum.double().cpu(), expected["loss"], atol=1e-5, rtol=1e-5)
    bound = 2**-8 if device == "cuda" or cpu_multiplies_bfloat16() else 1e-5
    for grad, reference in zip(grads, expected["grads"], strict=True):
        assert (grad.double().cpu() - reference).norm() / reference.norm() < bound


@on_each_device
def test_not_a_number_stays_one(device):
    """A logit that is NaN is seen in the loss, and not read as a masked entry."""
    case = problem(tokens=6, vocabulary=601, hidden=16)
    case["hidden"][0, 3] = float("nan")
    case["weights"] += 0.1
    there = {name: moved(value, device) for name, value in case.items()}
    for settings in ({}, {"top_k_of": "teacher"}):
        config = DistillationConfig(divergence="forward_kl", targets="online", **settings)
        result, _ = evaluate(fused_loss, there, there["online"], config, tiles=Tiles(4, 601))
        assert result.loss_sum.isnan()
