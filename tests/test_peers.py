"""pytest tests/test_peers.py — what is held against the peers, in small: opsd's arms agree with plain ones, and tables say so."""

import json
from importlib.util import find_spec

import pytest
import torch

from benchmarks.gpu.model import random_policy, random_prompts
from benchmarks.gpu.sizes import CPU
from benchmarks.peers import own_objective, own_rollouts, own_step, transformers_rollouts
from benchmarks.peers.__main__ import run
from benchmarks.peers.arms import PARTS, Arm, Case
from benchmarks.peers.environments import interpreter
from benchmarks.peers.table import table
from benchmarks.peers.tensors import measured
from opsd_core.models.policy import save_policy

ARMS_OF_OBJECTIVE = (own_objective.own, own_objective.whole)
ARMS = (Arm("opsd", "own", ""), Arm("peer", "trl", ""), Arm("absent", "vllm", ""), Arm("floor", "own", "", value=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model, and rows for a step and for rollouts."""
    folder = tmp_path_factory.mktemp("peers")
    policy = random_policy(CPU, torch.float32)
    save_policy(policy, folder / "model")
    rows = [random_prompts(CPU, policy, seed) for seed in range(3)]
    names = ("prompts", "teacher_prompts", "completions")
    ends = list(policy.eos_ids)
    (folder / "inputs.json").write_text(json.dumps(dict(zip(names, rows, strict=True), rollouts=rows[0], ends=ends)))
    return str(folder)


def spec(folder, **more):
    return {"folder": folder, "threads": 1, "dtype": "float32", "length": CPU.length, "top_k": 4, **more}


def test_the_objective_is_that_of_whole_logits():
    values = [measured({"sizes": (40, 601, 16), "dtype": "float32"}, arm)[2] for arm in ARMS_OF_OBJECTIVE]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] > 0.01


@pytest.mark.parametrize("mode", own_step.MODES)
def test_a_step_is_counted_and_its_loss_is_the_divergence(folder, mode):
    cost, tokens, loss = own_step.measured(spec(folder, mode=mode))
    assert tokens == CPU.batch * CPU.length
    assert loss > 0
    assert cost.cpu > 0
    assert cost.wall > 0
    assert cost.peak_mib > 0


def test_rollouts_are_as_many_as_plain_ones(folder):
    _, recorded, mean = own_rollouts.measured(spec(folder))
    _, plain, _ = transformers_rollouts.measured(spec(folder, arm="generate", batch=3))
    assert recorded == plain == CPU.batch * CPU.length
    assert mean < 0


def test_an_arm_in_a_process_gives_its_figures_or_says_what_failed(folder):
    figures = run(interpreter("own"), Arm("imports", "own", "imports"), {"arm": "libraries"})
    assert figures["cpu"] > 0
    assert figures["tokens"] == 1
    with pytest.raises(SystemExit, match=r"broken failed with status 1(?s:.)*No module named benchmarks\.peers\.nothing"):
        run(interpreter("own"), Arm("broken", "own", "nothing"), {})


def figures(cpu, value=1.0):
    return {"wall": 1.0, "cpu": cpu, "tokens": 10, "extra_mib": 5.0, "peak_mib": 50.0, "value": value}


def test_ratios_are_of_runs_of_one_round_and_absent_arms_are_named():
    runs = {"opsd": [figures(1.0), figures(2.0)], "peer": [figures(2.0), figures(8.0)], "floor": [figures(1.0), figures(1.0)]}
    text = "\n".join(table(Case("a case", {}, ARMS), runs))
    assert "| peer | 1.00 | 5.00 | 10.0 | 2.0 | 5 | 50 | 3.00 (2.00 to 4.00) |" in text
    assert "| absent | not installed |" in text
    assert "Values: 1.0000 and 1.0000." in text


def test_arms_that_compute_something_else_are_shown():
    runs = {"opsd": [figures(1.0)], "peer": [figures(1.0, value=1.1)], "floor": [figures(1.0, value=9.0)]}
    assert "**they differ" in "\n".join(table(Case("a case", {}, ARMS), runs))


def test_every_case_has_opsd_first_and_a_module_of_each_arm():
    for part in PARTS.values():
        for size in ("quick", "whole"):
            for case in part(size):
                assert case.arms[0].environment == "own"
                assert all(find_spec(f"benchmarks.peers.{arm.module}") for arm in case.arms)
