"""pytest tests/core/models/test_shards.py — files of a bounded size that others read, adapters on a coarser base."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from opsd_core.config import LoraConfig, ModelConfig
from opsd_core.models.policy import add_lora, effective_weights, load_policy, save_policy, training_dtype, verify_stored
from opsd_core.models.storage.shards import load_shards, save_shards
from opsd_core.teacher.teachers import LiveTeacher
from opsd_core.training.trainer import Schedule, distil
from tests.core.parallel.cases import Case, config_of, items_of
from tests.core.small import small_policy

LIMIT = 20_000
"""Bytes: a few of the small model's tensors."""


def moved(policy, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return policy


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_several_files_is_the_model_and_others_read_it(tmp_path, rank, tied):
    policy = small_policy(0, tied=tied)
    policy = moved(add_lora(policy, LoraConfig(rank=rank), 1) if rank else policy)
    save_policy(policy, tmp_path / "one")
    save_policy(policy, tmp_path / "many", max_bytes=LIMIT)
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "many" / "model.safetensors").exists()
    assert all(path.stat().st_size <= LIMIT + 2_000 for path in files), "one tensor of this model never has more"
    whole = load_file(tmp_path / "one" / "model.safetensors")
    parts = load_shards(tmp_path / "many", "model")
    assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in whole)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert verify_stored(policy, tmp_path / "many") < 1e-4
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "many", dtype=torch.float32)
    ids = torch.arange(2, 12)[None]
    assert torch.allclose(theirs(ids).logits, policy.model(input_ids=ids).logits, atol=1e-4)


def test_beside_the_tensors_one_file_is_held(tmp_path):
    """Each tensor is asked for when its turn comes, and let go when its file is written."""
    alive = []

    def tensors():
        for number in range(10):
            assert sum(reference() is not None for reference in alive) <= 3, "more than a file's worth is held"
            tensor = torch.full((1000,), float(number))
            alive.append(weakref.ref(tensor))
            yield f"t{number}", tensor
            del tensor

    save_shards(tensors(), tmp_path, "model", max_bytes=8000)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    assert {name: float(tensor[0]) for name, tensor in load_shards(tmp_path, "model").items()} == {
        f"t{number}": float(number) for number in range(10)
    }


def test_adapters_learn_on_a_bfloat16_base(tmp_path):
    """The base keeps its bits and its dtype, adapters and moments are float32, and what is stored holds small steps too."""
    settings = config_of(Case({"model": {"lora": {"rank": 4, "base_dtype": "bfloat16"}}, "distillation": {"targets": "online"}}))
    assert training_dtype(settings.model) == torch.bfloat16
    assert training_dtype(ModelConfig(source="tiny")) == torch.float32
    save_policy(small_policy(0), tmp_path / "start")
    policy = load_policy(tmp_path / "start", settings.model, training_dtype(settings.model))
    policy = add_lora(policy, settings.model.lora, 1)
    frozen = {name: p.clone() for name, p in policy.model.named_parameters() if not p.requires_grad}
    losses = []
    save = distil(
        policy, LiveTeacher(small_policy(7)), items_of(policy, recorded=False), settings, Schedule(0, 20), 3,
        on_step=lambda _, metrics: losses.append(metrics["distillation/loss"]),
    )  # fmt: skip
    assert losses[-1] < losses[0]
    for name, parameter in policy.model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert parameter.requires_grad or torch.equal(parameter, frozen[name])
    save(tmp_path / "state")
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / "state" / "optimizer.safetensors").values())
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-6)  # a step far below bfloat16's resolution
    merged, base = dict(effective_weights(policy.model)), dict(effective_weights(policy.causal_lm))
    name = "model.layers.0.mlp.up_proj.weight"
    assert merged[name].dtype == torch.float32
    assert not torch.equal(merged[name], merged[name].bfloat16().float()) and base
    save_policy(policy, tmp_path / "end")
    assert verify_stored(policy, tmp_path / "end") < 0.1
