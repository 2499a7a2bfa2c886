"""pytest tests/core/models/test_stored.py — what is stored is what was trained, for every kind of adapter and tie."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3MoeConfig

from opsd_core.config import LoraConfig as Lora
from opsd_core.config import ModelConfig
from opsd_core.errors import IntegrityError, ModelError
from opsd_core.models.adapters import effective_weights
from opsd_core.models.forward import check_head
from opsd_core.models.policy import Policy, add_lora, load_policy, save_adapter, save_policy, verify_stored
from opsd_core.teacher.teachers import EmaTeacher
from tests.core.small import small_policy, small_tokenizer

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


ONCE = ("llama-linear", "llama-rslora", "llama-tokens", "gpt2-conv1d", "moe-linear", "moe-experts")
LATER = ("llama-dora", "llama-both", "llama-rslora", "moe-all")
CASES = [
    pytest.param((kind, tied), marks=[pytest.mark.slow] if kind in LATER and (kind in ONCE or not tied) else [])
    for kind in KINDS
    for tied in (True, False)
    if tied or kind not in ONCE
]
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
    save_policy(policy, str(tmp_path / "a"))
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


def test_a_head_adapter_gets_the_gradient_that_the_models_own_logits_give():
    for kind in ("llama-head", "llama-both", "llama-dora", "llama-modules"):
        make, config = KINDS[kind]
        model = stirred(get_peft_model(plain(make(False)), copy.deepcopy(config)))
        policy = Policy(model, small_tokenizer())
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad and "lm_head" in n}
        hidden = policy.causal_lm.get_decoder()(input_ids=IDS).last_hidden_state.detach()
        torch.nn.functional.linear(hidden, policy.head.weight_VH, policy.head.bias_V).logsumexp(-1).sum().backward()
        ours = {name: parameter.grad.clone() for name, parameter in trained.items()}
        model.zero_grad()
        policy.causal_lm.get_output_embeddings()(hidden).logsumexp(-1).sum().backward()
        assert trained and all(parameter.grad.abs().max() > 0 for parameter in trained.values())
        for name, parameter in trained.items():
            assert torch.allclose(ours[name], parameter.grad, atol=1e-4, rtol=1e-3), (kind, name)


def test_a_head_whose_adapter_is_off_is_the_base_models():
    make, config = KINDS["llama-head"]
    policy = Policy(stirred(get_peft_model(plain(make(False)), copy.deepcopy(config))), small_tokenizer())
    with policy.model.disable_adapter():
        assert torch.equal(policy.head.weight_VH, plain(make(False)).lm_head.weight)
        assert torch.equal(dict(effective_weights(policy.model))["lm_head.weight"], policy.head.weight_VH)


def test_a_stored_folder_that_is_not_the_policy_is_named_by_its_tensor(tmp_path):
    policy = add_lora(small_policy(0, tied=False), Lora(rank=2, target_modules="q_proj,lm_head"), seed=1)
    stirred(policy.model)
    save_policy(policy, tmp_path)
    assert verify_stored(policy, tmp_path) < 1e-3
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("lm_head.weight", "model.layers.1.self_attn.q_proj.weight"):
        save_file(weights | {name: weights[name].flip(0).contiguous()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(IntegrityError, match=rf"not the policy that was trained.*differs most is '{name}'"):
            verify_stored(policy, tmp_path)


def test_adapters_that_do_not_fit_are_refused_with_the_tensor(tmp_path):
    policy = add_lora(small_policy(0), Lora(rank=2, target_modules="q_proj"), seed=1)
    save_policy(small_policy(0), tmp_path / "base")
    save_adapter(policy, tmp_path / "adapter", base="../base")  # beside it: folders move together
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    load_policy(tmp_path / "adapter", CONFIG)
    whole = load_file(path)
    name = sorted(whole)[0]
    for damaged, pattern in (
        ({k: v for k, v in whole.items() if k != name}, "is missing, so it would keep a random value"),
        (whole | {name.replace("layers.0", "layers.7"): whole[name].clone()}, r"layers\.7.*fits no module"),
        ({f"module.{k}": v for k, v in whole.items()}, "is missing|fits no module"),
        (whole | {name: whole[name] * float("nan")}, "not finite"),
        (whole | {name: whole[name][:1].contiguous()}, "does not fit its base"),
    ):
        save_file(damaged, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=pattern) as caught:
            load_policy(tmp_path / "adapter", CONFIG)
        assert str(tmp_path / "adapter") in str(caught.value)
    save_adapter(policy, tmp_path / "adapter", base=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match=r"its base '.*gone' .*is no folder"):
        load_policy(tmp_path / "adapter", CONFIG)
    with pytest.raises(ModelError, match="no adapters to write"):
        save_adapter(small_policy(0), tmp_path / "none", base="x")


def test_an_average_of_an_adapted_head_survives_a_checkpoint_though_the_base_is_tied(tmp_path):
    policy = add_lora(small_policy(0), Lora(rank=2, target_modules="lm_head"), seed=1)
    stirred(policy.model)
    teacher, again = EmaTeacher(small_policy(0), 0.5), EmaTeacher(small_policy(0), 0.5)
    teacher.update(policy)
    again.load_state({name: tensor.clone() for name, tensor in teacher.state().items()})
    assert torch.equal(logits(again.policy.model), logits(teacher.policy.model))
    assert not torch.allclose(logits(again.policy.model), logits(small_policy(0).model), atol=1e-2)
