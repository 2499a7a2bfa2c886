"""Any architecture: batched sampling, scoring and training give what one sequence at a time gives."""

import json

import pytest
import torch

from opsd_core.acceptance import Acceptance, accept, with_paths
from opsd_core.acceptance.compare import (
    gradient_difference,
    ragged_prompts,
    recorded_difference,
    sampling_difference,
)
from opsd_core.acceptance.families import names, tiny_policy
from opsd_core.acceptance.probe import make_probe
from opsd_core.config import LoraConfig
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.packing import packed
from opsd_core.models.policy import Policy, add_lora
from opsd_core.rollout.sampling import Sampling

GREEDY = Sampling(temperature=0.0, max_completion_length=8, record_top_k=4)
SAMPLED = Sampling(temperature=0.9, max_completion_length=8, record_top_k=4)
OFTEN = [2, *range(9, 98, 9)]
"""Ends of a completion: every tenth token, so that rows leave and others take their places."""

FAMILIES = ["llama", "gemma3", "gemma4_text", "gpt_oss", "mistral", "llama4_text", "mpt"]
FAMILIES += ["qwen3_5", "lfm2", "mamba", "granite", "cohere2"]
"""Plain; windows in a nested configuration; shared caches; sinks; one window for all layers; chunks; ALiBi; hybrids; a state
without keys; scaled heads."""
ROUNDING = 0.5
"""Nats: an expert that is chosen otherwise because of a rounded router moves a tiny model by as much."""
BFLOAT16 = ["gemma3_text", "deepseek_v3", "jamba"]


def ending_often(policy: Policy) -> Policy:
    policy.causal_lm.generation_config.eos_token_id = OFTEN
    return policy


def check_family(name: str) -> None:
    policy = ending_often(tiny_policy(name))
    policy = with_paths(policy, accept(policy))
    for sampling in (GREEDY, SAMPLED):
        assert sampling_difference(policy, ragged_prompts(), sampling, batch_size=4) < 1e-4
    assert gradient_difference(policy, make_probe(policy)) < 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_completion_and_a_gradient_do_not_depend_on_their_neighbours(name):
    check_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - set(FAMILIES)))
def test_nor_in_any_other_architecture_that_is_not_refused(name):
    try:
        check_family(name)
    except ModelError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["gemma3", "gpt_oss", "llama4_text", "lfm2"])
def test_what_the_configuration_alone_tells_is_right_before_any_test(name):
    policy = ending_often(tiny_policy(name))
    assert sampling_difference(policy, ragged_prompts(), GREEDY, batch_size=4) < 1e-4


def check_bfloat16(name: str) -> None:
    policy = ending_often(tiny_policy(name, torch.bfloat16))
    policy = packed(with_paths(policy, accept(policy)))
    for sampling in (GREEDY, SAMPLED):
        assert recorded_difference(policy, ragged_prompts(), sampling, batch_size=4) < ROUNDING


@pytest.mark.parametrize("name", BFLOAT16)
def test_in_bfloat16_they_differ_by_rounding_alone(name):
    check_bfloat16(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - set(BFLOAT16)))
def test_so_they_do_in_every_architecture(name):
    try:
        check_bfloat16(name)
    except ModelError as error:
        pytest.skip(str(error))


def check_adapters(name: str) -> None:
    policy = ending_often(add_lora(tiny_policy(name), LoraConfig(rank=4), seed=0))
    torch.manual_seed(0)
    trained = [(key, value) for key, value in policy.model.named_parameters() if value.requires_grad]
    for key, value in trained:
        assert ".lora_" in key
        torch.nn.init.normal_(value, std=0.05)
    policy = with_paths(policy, accept(policy))
    assert sampling_difference(policy, ragged_prompts(), SAMPLED, batch_size=4) < 1e-4
    assert gradient_difference(policy, make_probe(policy)) < 1e-3


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5", "granite", "phimoe", "mamba"])
def test_adapters_sample_and_learn_as_the_model_does(name):
    check_adapters(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_so_do_adapters_of_every_architecture(name):
    try:
        check_adapters(name)
    except ModelError as error:
        pytest.skip(str(error))


KEPT = ["llama", "qwen3_moe", "gpt_oss", "qwen3_5", "mamba", "falcon", "longcat_flash"]
"""Plain; experts in one tensor and in several; hybrids; weights that layers read past an adapter; linear layers of their own."""


@pytest.mark.parametrize("name", KEPT)
def test_saved_loaded_and_adapted_it_is_the_same_model(name, tmp_path):
    errors = accept(tiny_policy(name), LoraConfig(rank=4), tmp_path).errors
    assert errors["stored"] == 0.0 and errors["adapters/stored"] < 1e-3
    assert errors["adapters/scoring"] < 1e-4 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - set(KEPT)))
def test_so_is_every_other_that_is_not_refused(name, tmp_path):
    try:
        errors = accept(tiny_policy(name), LoraConfig(rank=4), tmp_path).errors
    except ModelError as error:
        pytest.skip(str(error))
    assert errors["adapters/stored"] < 1e-2


def test_a_model_that_cannot_be_stored_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ModelError, match=r"saved and loaded again it is another model: .*Unrecognized configuration class"):
        accept(tiny_policy("emu3"), scratch=tmp_path)


def test_an_adapter_that_does_nothing_until_it_is_merged_is_refused(tmp_path):
    for targets, reason in {"dt_proj": "get no gradient", "dt_proj,x_proj": "saved and loaded again"}.items():
        with pytest.raises(ModelError, match=f"(?s){reason}.*model.lora.target_modules"):
            accept(tiny_policy("mamba"), LoraConfig(rank=4, target_modules=targets), tmp_path)


def test_adapter_targets_that_match_nothing_are_refused_by_their_field(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules='nowhere': LlamaForCausalLM has no module"):
        accept(tiny_policy("llama"), LoraConfig(rank=4, target_modules="nowhere"), tmp_path)


def test_the_result_of_acceptance_is_stored_as_json_and_applied_elsewhere():
    policy = tiny_policy("roberta")
    record = accept(policy)
    assert record.sampling not in ("fast", "aligned"), "its positions count padding"
    assert any("sampling=fast is off for RobertaForCausalLM" in line for line in record.switched_off)
    again = Acceptance.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record
    other = with_paths(tiny_policy("roberta"), again)
    assert (other.paths.sampling, other.paths.scoring) == (record.sampling, record.scoring)
    assert sampling_difference(other, ragged_prompts(), GREEDY, batch_size=4) < 1e-4


def test_a_plain_llama_keeps_every_shortcut():
    record = accept(tiny_policy("llama"))
    assert (record.sampling, record.scoring, record.attention, record.switched_off) == ("fast", "shared", "usual", ())


def test_a_model_that_reads_what_comes_later_is_refused():
    policy = tiny_policy("llama")
    for layer in policy.causal_lm.model.layers:
        layer.self_attn.is_causal = False
    policy.causal_lm.set_attn_implementation("sdpa")
    policy.causal_lm.config.is_causal = False
    with pytest.raises(ModelError, match="no causal model"):
        accept(policy)


def test_a_model_with_a_weight_that_is_not_finite_is_refused_by_the_tensors_name():
    policy = tiny_policy("llama")
    with torch.no_grad():
        policy.causal_lm.model.layers[2].mlp.up_proj.weight[3, 5] = torch.nan
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj\.weight"):
        accept(policy)


def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_sampled():
    policy = tiny_policy("llama")
    policy.causal_lm.model.norm.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(ModelError, match="raises RuntimeError"):
        accept(policy)


def test_a_model_whose_logits_are_no_projection_is_refused():
    policy = tiny_policy("llama")
    policy.causal_lm.lm_head.register_forward_hook(lambda module, inputs, output: output + output.roll(1, -1))
    with pytest.raises(ModelError, match="changes logits in a way that the objective does not know"):
        accept(policy)
