"""pytest tests/core/models/test_apart.py — base and adapter give the policy that was trained, to the bit, wherever they meet."""

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from opsd_core.digest import file_digest
from opsd_core.errors import IntegrityError
from opsd_core.mlmodel import verify_mlmodel
from opsd_core.models.adapters import effective_weights
from opsd_core.models.merging import merged_weight, merges_exactly
from opsd_core.models.policy import Policy, load_policy, save_policy
from opsd_core.models.storage.apart import StoredBase, can_be_apart, keep_apart, put_together
from opsd_core.models.storage.serving import Serving
from opsd_core.records.apart import RECORD, REST, Apart
from tests.core.models.test_stored import CONFIG, KINDS, QUIET, adapter, llama, logits, plain, stirred
from tests.core.small import small_tokenizer

ROOT = Path(__file__).resolve().parents[3]
SERVING = Serving(chat_template=None, dtype="float32", base="org/base")
APART = ("llama-linear", "llama-head", "llama-embedding", "llama-rslora", "gpt2-conv1d", "moe-linear")
WHOLE = ("llama-dora", "llama-modules", "llama-tokens", "moe-experts")


def wrapped(model, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice on ties and its own rules for experts
        return stirred(get_peft_model(model, copy.deepcopy(config)))


def stored_base(folder: Path, make, tied=True) -> StoredBase:
    save_policy(Policy(plain(make(tied)), small_tokenizer()), folder)
    return StoredBase(folder, "models/0123/4567", "d" * 64)


def trained(base: StoredBase, config, dtype=torch.float32) -> Policy:
    return Policy(wrapped(load_policy(base.folder, CONFIG, dtype).model, config), small_tokenizer())


def kept(tmp_path: Path, kind="llama-linear", dtype=torch.float32) -> tuple[StoredBase, Policy, Apart]:
    make, config = KINDS[kind]
    base = stored_base(tmp_path / "base", make)
    policy = trained(base, config, dtype)
    return base, policy, keep_apart(policy, base, SERVING, tmp_path / "apart", tmp_path / "whole")


def bytes_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in folder.rglob("*") if path.is_file()}


@QUIET
@pytest.mark.parametrize("kind", APART)
def test_the_whole_folder_is_the_same_to_the_bit_however_often_and_on_however_many_threads(tmp_path, kind):
    base, policy, record = kept(tmp_path, kind)
    assert bytes_of(tmp_path / "whole").keys() >= {"config.json", "model.safetensors", "MLmodel", "tokenizer.json"}
    verify_mlmodel(tmp_path / "whole")
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            put_together(tmp_path / "apart", base.folder, tmp_path / f"again-{threads}")
            assert bytes_of(tmp_path / f"again-{threads}") == bytes_of(tmp_path / "whole")
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(logits(load_policy(tmp_path / "whole", CONFIG).model), logits(policy.model), atol=2e-4, rtol=1e-4)
    assert record == Apart.read(tmp_path / "apart") and record.base == base.address and record.digest == base.digest


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_the_whole_folder_is_the_same_to_the_bit_on_a_machine_with_other_instructions(tmp_path, instructions):
    base, _, _ = kept(tmp_path)
    code = "import sys, pathlib; from opsd_core.models.storage import apart; apart.put_together(*map(pathlib.Path, sys.argv[1:]))"
    parts = [str(tmp_path / "apart"), str(base.folder), str(tmp_path / "again")]
    environ = {**os.environ, "ATEN_CPU_CAPABILITY": instructions, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *parts], check=True, env=environ, cwd=ROOT)
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "whole")


@QUIET
def test_weights_merge_in_float32_rank_by_rank_and_peft_agrees_within_rounding():
    model = wrapped(plain(llama(False)), KINDS["llama-linear"][1])
    layer = next(m for name, m in model.named_modules() if name.endswith("layers.1.mlp.down_proj"))
    left, right = layer.lora_B["default"].weight.detach().numpy(), layer.lora_A["default"].weight.detach().numpy()
    expected = np.zeros((left.shape[0], right.shape[1]), np.float32)
    for row in range(left.shape[0]):
        for column in range(right.shape[1]):
            total = np.float32(left[row, 0] * right[0, column])
            for rank in range(1, left.shape[1]):
                total = np.float32(total + np.float32(left[row, rank] * right[rank, column]))
            expected[row, column] = layer.base_layer.weight[row, column].item() + np.float32(total * np.float32(2.0))
    merged = merged_weight(layer)
    assert np.array_equal(merged.numpy(), expected)
    delta = layer.get_delta_weight("default")
    assert torch.allclose(merged, layer.base_layer.weight + delta, atol=1e-6) and delta.abs().max() > 0.01


@QUIET
def test_adapters_in_float32_on_a_bfloat16_base_keep_their_small_steps(tmp_path):
    base, policy, record = kept(tmp_path, dtype=torch.bfloat16)
    assert record.dtype == "bfloat16" and policy.causal_lm.lm_head.weight.dtype == torch.bfloat16
    put_together(tmp_path / "apart", base.folder, tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "whole")
    stored = load_file(tmp_path / "whole" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = dict(effective_weights(policy.model, exact=True))[name]
    assert stored[name].dtype == torch.float32 and torch.equal(stored[name], expected)


@QUIET
def test_plain_peft_reads_the_adapter_with_the_trained_policys_bits(tmp_path):
    base, policy, _ = kept(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    read = PeftModel.from_pretrained(model, str(tmp_path / "apart")).eval()
    assert torch.equal(logits(read), logits(policy.model))
    assert read.peft_config["default"].base_model_name_or_path == "org/base"


@QUIET
def test_what_is_stored_has_the_adapters_size_and_the_same_bytes_every_time(tmp_path):
    base, policy, _ = kept(tmp_path)
    stored = bytes_of(tmp_path / "apart")
    assert {"adapter_config.json", "adapter_model.safetensors", RECORD, f"{REST}/config.json"} <= stored.keys()
    assert not any(name.endswith(("tokenizer.json", "model-00001.safetensors", "/model.safetensors")) for name in stored)
    keep_apart(policy, base, SERVING, tmp_path / "twice", tmp_path / "whole-twice")
    assert bytes_of(tmp_path / "twice") == stored


@QUIET
@pytest.mark.parametrize("kind", WHOLE)
def test_other_kinds_of_adapters_and_models_with_code_of_their_own_are_not_taken_apart(kind):
    make, config = KINDS[kind]
    policy = Policy(wrapped(plain(make(True)), config), small_tokenizer())
    assert not can_be_apart(policy, False)
    fine = Policy(wrapped(plain(llama(True)), adapter(target_modules="all-linear")), small_tokenizer())
    assert merges_exactly(fine.model) and can_be_apart(fine, False) and not can_be_apart(fine, True)
    assert not can_be_apart(Policy(plain(llama(True)), small_tokenizer()), False)


def changed(path: Path) -> None:
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, path, metadata={"format": "pt"})


@QUIET
@pytest.mark.parametrize("what", ["adapter", "base", "file", "gone"])
def test_a_change_of_any_part_is_refused_by_name(tmp_path, what):
    base, _, _ = kept(tmp_path)
    named = {"adapter": "adapter_model", "base": "do not give the weights", "file": "config.json", "gone": "tokenizer.json"}
    if what == "adapter":
        changed(tmp_path / "apart" / "adapter_model.safetensors")
    elif what == "base":
        changed(base.folder / "model.safetensors")
    elif what == "file":
        path = tmp_path / "apart" / REST / "config.json"
        path.write_text(path.read_text().replace("{", "{ ", 1))
    else:
        (base.folder / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=named[what]):
        put_together(tmp_path / "apart", base.folder, tmp_path / "again")


def test_a_record_of_a_later_version_or_none_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match=r"version\.json cannot be read"):
        Apart.read(tmp_path)
    (tmp_path / RECORD).write_text('{"schema": 9}')
    with pytest.raises(IntegrityError, match="schema 9"):
        Apart.read(tmp_path)
