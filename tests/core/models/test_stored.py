"""pytest tests/core/models/test_stored.py — what is stored is what was trained, for every kind of adapter and tie."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3MoeConfig

from opsd_core.config import ModelConfig
from opsd_core.models.adapters import effective_weights
from opsd_core.models.forward import check_head
from opsd_core.models.policy import Policy, load_policy, save_adapter, save_policy, verify_stored
from opsd_core.teacher.teachers import EmaTeacher
from tests.core.small import small_tokenizer

CONFIG = ModelConfig(source="x", device="cpu", dtype="float32")
IDS = torch.arange(2, 26).view(2, 12)
SIZE = {"vocab_size": 45, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 16}


def moe(tied):
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
    return Qwen3MoeConfig(**SIZE, **HEADS, **experts, intermediate_size=32, tie_word_embeddings=tied)


def llama(tied):
    return LlamaConfig(**SIZE, **HEADS, intermediate_size=32, tie_word_embeddings=tied)


def gpt2(tied):
    return GPT2Config(**SIZE, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=tied)


def plain(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    return model.eval()


def stirred(model):
    """Adapters that do something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "trainable_tokens_delta" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def adapter(**options):
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"} | options)


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS = {
    "llama-linear": (llama, adapter(target_modules="all-linear")),
    "llama-head": (llama, adapter(target_modules=["lm_head", "q_proj"])),
    "llama-embedding": (llama, adapter(target_modules=["embed_tokens"])),
    "llama-both": (llama, adapter(target_modules=["embed_tokens", "lm_head"])),
    "llama-dora": (llama, adapter(target_modules=["q_proj", "lm_head", "embed_tokens"], use_dora=True)),
    "llama-rslora": (llama, adapter(target_modules="all-linear", use_rslora=True)),
    "llama-modules": (llama, adapter(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "llama-tokens": (llama, adapter(target_modules=["q_proj"], trainable_token_indices=[3, 5])),
    "gpt2-conv1d": (gpt2, adapter(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "moe-linear": (moe, adapter(target_modules="all-linear")),
    "moe-experts": (moe, adapter(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "moe-all": (moe, adapter(target_modules=["q_proj", "lm_head"], target_parameters=["mlp.experts.down_proj"])),
}


CASES = [(kind, tied) for kind in KINDS for tied in (True, False)]
QUIET = pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|tied|fan_in_fan_out|_pattern).*")


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{'tied' if case[1] else 'untied'}")
def policy(request):
    kind, tied = request.param
    make, config = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice on ties and its own rules for experts
        return Policy(stirred(get_peft_model(plain(make(tied)), copy.deepcopy(config))), small_tokenizer())


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@QUIET
def test_the_stored_model_has_the_trained_ones_logits_and_the_policy_its_bits(policy, tmp_path):
    live = logits(policy.model)
    bits = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    save_policy(policy, tmp_path / "a")
    assert all(torch.equal(tensor, bits[name]) for name, tensor in policy.model.state_dict().items())
    one, two = load_policy(tmp_path / "a", CONFIG), load_policy(tmp_path / "a", CONFIG)
    assert torch.equal(logits(one.model), logits(two.model))
    assert torch.allclose(logits(one.model), live, atol=2e-4, rtol=1e-4)
    elsewhere = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.float32).eval()
    assert torch.allclose(logits(elsewhere), live, atol=2e-4, rtol=1e-4)
    assert verify_stored(policy, tmp_path / "a") < 2e-4
    assert check_head(policy) < 2e-4


@QUIET
def test_effective_weights_are_those_that_peft_merges(policy):
    effective = {name: tensor.clone() for name, tensor in effective_weights(policy.model)}
    live = logits(policy.model)
    merged = copy.deepcopy(policy.model).merge_and_unload()
    if not torch.allclose(logits(merged), live, atol=2e-4, rtol=1e-4):
        assert policy.causal_lm.config.tie_word_embeddings  # merging into a shared matrix changes both of its uses
        return
    theirs = merged.state_dict()
    assert effective.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(effective[name], tensor, atol=1e-6), name


@QUIET
def test_the_averaged_teacher_follows_the_effective_weights(policy):
    base = copy.deepcopy(policy.model).unload()
    teacher = EmaTeacher(Policy(base, policy.tokenizer), decay=0.0)
    teacher.update(policy)
    assert torch.allclose(logits(teacher.policy.model), logits(policy.model), atol=2e-4, rtol=1e-4)


@QUIET
def test_an_adapter_folder_is_a_source(policy, tmp_path):
    save_policy(Policy(copy.deepcopy(policy.model).unload(), policy.tokenizer), tmp_path / "base")
    save_adapter(policy, tmp_path / "adapter", base=str(tmp_path / "base"))
    loaded = load_policy(tmp_path / "adapter", CONFIG)
    assert not isinstance(loaded.model, PeftModel)
    assert torch.allclose(logits(loaded.model), logits(policy.model), atol=2e-4, rtol=1e-4)
    save_policy(loaded, tmp_path / "stored")
    stored = load_policy(tmp_path / "stored", CONFIG)
    assert torch.allclose(logits(stored.model), logits(policy.model), atol=2e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
