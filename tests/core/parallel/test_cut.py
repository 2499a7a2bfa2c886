"""pytest tests/core/parallel/test_cut.py — a model read in parts is the model: every weight and every buffer, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from opsd_core.acceptance.families import names, tiny_model, tiny_policy
from opsd_core.config import ModelConfig
from opsd_core.errors import ModelError
from opsd_core.models.adapter_targets import unfit
from opsd_core.models.adapters import untie
from opsd_core.models.cut import Cut, cutting, own_part
from opsd_core.models.policy import load_policy, save_policy
from opsd_core.models.storage.loading import load_model
from tests.core.small import small_policy

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ModelConfig(source="x", device="cpu", dtype="float32")
USUAL = (
    "llama", "gpt2", "qwen3", "qwen3_moe", "gemma3_text", "gpt_oss", "deepseek_v3", "mamba2", "bloom", "phi3", "falcon_h1"
)  # fmt: skip
"""Tied and untied, learned, rotary and other positions, states, experts that are stored one by one, fused projections."""
TOGETHER = ("gpt2", "qwen3_moe")
FAMILIES = [pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow) for name in names()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_the_parts_are_the_model(family, tmp_path):
    try:
        tiny_model(family).save_pretrained(tmp_path)
        model = load_model(str(tmp_path), {}, torch.float32)
    except Exception as error:
        if family in USUAL:
            raise
        pytest.skip(f"no tiny {family} is stored: {error}")
    parts = []
    for rank in range(3):  # more than divide the sizes evenly
        with cutting(Cut(rank, 3)):
            parts.append(load_model(str(tmp_path), {}, torch.float32))
    weights, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    held = [dict(part.named_parameters()) for part in parts]
    assert all(found.keys() == weights.keys() for found in held)
    for name, weight in weights.items():
        assert torch.equal(torch.cat([own_part(found[name]) for found in held]), weight), name
        for found in held:
            assert (found[name].shape, found[name].dtype, found[name].requires_grad) == (
                weight.shape, weight.dtype, weight.requires_grad
            ), name  # fmt: skip
            small = weight.dim() < 2  # a tied bias is cloned by some families
            assert small or found[name].untyped_storage().nbytes() <= 8, name
    for part in parts:
        found = dict(part.named_buffers())
        assert found.keys() == buffers.keys()
        assert all(torch.equal(found[name], values) for name, values in buffers.items())


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "falcon_h1"])
@pytest.mark.filterwarnings("ignore")
def test_adapters_go_where_they_go_on_the_whole_model(family, tmp_path):
    """Which layers fit is asked of the model itself, and stand-ins have no numbers to answer with."""
    tiny_model(family).save_pretrained(tmp_path)
    with cutting(Cut(1, 2)):
        part = load_model(str(tmp_path), {}, torch.float32)
    assert unfit(part) == unfit(load_model(str(tmp_path), {}, torch.float32))
    assert all(own_part(weight) is not None for weight in part.parameters()), "stand-ins are back in their places"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_processes_hold_a_part_each_and_together_the_model(tmp_path):
    """After FSDP2 took them over: students, teachers, adapters."""
    for family in TOGETHER:
        save_policy(tiny_policy(family), tmp_path / family)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "tests.core.parallel.laid_out", str(tmp_path), *TOGETHER]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"different-{rank}.json").read_text())
        assert len(found) == 2 * len(TOGETHER) and not {case: wrong for case, wrong in found.items() if wrong}


def test_a_part_in_float32_is_read_from_bfloat16(tmp_path):
    policy = small_policy(0)
    policy.model.to(torch.bfloat16)
    save_policy(policy, tmp_path)
    whole, part = load_policy(tmp_path, CONFIG, torch.float32), load_policy(tmp_path, CONFIG, torch.float32, Cut(1, 2))
    for name, weight in part.model.named_parameters():
        found, wanted = own_part(weight), whole.model.get_parameter(name).chunk(2)[1]
        assert torch.equal(found, wanted) and found.dtype == torch.float32


def test_a_matrix_that_is_split_in_two_stays_in_parts(tmp_path):
    save_policy(small_policy(0), tmp_path)
    part = load_policy(tmp_path, CONFIG, torch.float32, Cut(0, 2))
    one, other = part.model.get_input_embeddings(), part.model.get_output_embeddings()
    assert one.weight is other.weight
    untie(part.model)
    assert one.weight is not other.weight and torch.equal(own_part(one.weight), own_part(other.weight))
    assert own_part(one.weight).data_ptr() != own_part(other.weight).data_ptr()


def test_a_stand_in_is_not_computed_with_unnoticed(tmp_path):
    save_policy(small_policy(0), tmp_path)
    part = load_policy(tmp_path, CONFIG, torch.float32, Cut(0, 2))
    assert part.model(input_ids=torch.tensor([[2, 3]]), use_cache=False).logits.isnan().all()


@pytest.mark.parametrize(("change", "message"), [("nan", "not finite"), ("missing", "is missing"), ("shape", "has the shape")])
def test_bad_weights_are_refused_as_ever(change, message, tmp_path):
    save_policy(small_policy(0), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    if change == "nan":
        tensors[name][0, 0] = float("nan")
    elif change == "shape":
        tensors[name] = tensors[name][:-1].clone()
    else:
        del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_policy(tmp_path, CONFIG, torch.float32, Cut(0, 2))
