"""pytest tests/core/training/test_out_of_memory.py — a step that does not fit is cut into smaller ones, with the same loss."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opsd_core.errors import TrainingError
from opsd_core.training.ranks import Ranks, out_of_memory

ROOT = Path(__file__).resolve().parents[3]
_STEP = """
import json, resource
import numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM
from opsd_core.config import resolve
from opsd_core.models.policy import Policy
from opsd_core.teacher.teachers import NoTeacher
from opsd_core.training.items import TrainingItem
from opsd_core.training.optim import build_optimizer
from opsd_core.training.trainer import train_step
from tests.core.small import small_tokenizer

torch.set_num_threads(1)
tokenizer = small_tokenizer()

def policy():
    torch.manual_seed(0)
    sizes = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, attn_implementation="sdpa",
                         pad_token_id=0, eos_token_id=0, bos_token_id=None, **sizes)
    return Policy(LlamaForCausalLM(config).eval(), tokenizer)

def items(number, length):
    ids = np.random.default_rng(0).integers(2, 40, (number, length))
    ones = np.ones(length - 10, np.float32)
    return [TrainingItem(row[:10].tolist(), row[:10].tolist(), row[10:].tolist(), ones * 0, ones, key=("e", i))
            for i, row in enumerate(ids)]

settings = resolve("tiny", {"control": True, "distillation": {"divergence": "cross_entropy"}, "optimizer": {"eps": 1e-6},
                            "execution": {"microbatch_tokens": 100_000}})

def step(batch):
    made = policy()
    optimizer = build_optimizer(made.model.parameters(), settings.optimizer)
    metrics = train_step(made, NoTeacher(), batch, optimizer, settings, 0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # what follows is the test's own
    return metrics, torch.cat([p.detach().flatten() for p in made.model.parameters()])

step(items(2, 20))  # libraries have their own memory now
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
limited, weights = step(items(24, 60))
free, others = step(items(24, 60))
print(json.dumps({"limited": limited, "free": free, "weights": float((weights - others).abs().max())}))
"""


def test_the_loss_does_not_depend_on_the_memory():
    """A real limit on the process' address space: the whole batch at once does not fit, parts of it do."""
    done = subprocess.run(
        [sys.executable, "-c", _STEP], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    limited, free = found["limited"], found["free"]
    assert "execution/microbatch_tokens" not in free and limited["execution/microbatch_tokens"] <= 720
    assert limited["distillation/loss"] == pytest.approx(free["distillation/loss"], rel=1e-6)
    assert limited["optim/grad_norm"] == pytest.approx(free["optim/grad_norm"], rel=1e-5)
    assert found["weights"] <= 1e-5


def test_an_allocation_that_cannot_be_is_known_by_what_it_raises():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(raised.value) and out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(TrainingError("no"))


@pytest.mark.parametrize("lengths", [[10, 10, 10, 30], [10] * 3 + [100], [30, 31, 32, 33]])
def test_microbatches_are_halved_until_one_completion_is_left(lengths):
    ranks, seen = Ranks(), []
    with pytest.raises(TrainingError, match=r"one completion of \d+ tokens.*execution\.gradient_checkpointing=true"):
        for _ in range(20):
            seen.append([rows for rows, _ in ranks.mine(lengths, 8192)])
            ranks.lower(lengths, 8192)
    assert [len(rounds) for rounds in seen] == sorted(len(rounds) for rounds in seen) and len(seen[0]) == 1
    assert all(sorted(row for rows in rounds for row in rows) == [0, 1, 2, 3] for rounds in seen)
    assert max(len(rows) for rows in seen[-1]) == 1
