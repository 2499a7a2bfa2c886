"""Tiny random models of the architectures that transformers can build: what opsd's shortcuts are tested on.

A family's own default configuration is shrunk name by name (widths, layers, heads, experts, windows, multimodal parts), so a
new family needs an entry here only where its numbers have to fit each other in a way of their own.
"""

import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from opsd_core.errors import ModelError
from opsd_core.models.attention import use_cpu_attention
from opsd_core.models.policy import Policy
from opsd_core.models.tiny import tiny_tokenizer

VOCABULARY, HIDDEN, HEADS, HEAD, WINDOW, LAYERS, POSITIONS = 100, 32, 4, 8, 8, 4, 256


def _all(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


_SIZES: dict[str, Any] = {
    **_all(VOCABULARY, "vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size"),
    **_all(HIDDEN, "hidden_size d_model n_embd emb_dim embedding_dim embedding_size word_embed_proj_dim lru_width"),
    **_all(HIDDEN, "attention_hidden_size input_embedding_size output_embedding_size hidden_size_global d_ff swa_hidden_size"),
    **_all(48, "intermediate_size moe_intermediate_size shared_expert_intermediate_size dense_intermediate_size"),
    **_all(48, "shared_experts_intermediate_size moe_shared_expert_intermediate_size intermediate_size_mlp mlp_dim"),
    **_all(48, "ffn_dim decoder_ffn_dim encoder_ffn_dim dff dim_ff d_inner feed_forward_size ffn_hidden_size"),
    **_all(48, "expert_ffn_hidden_size"),
    **_all(LAYERS, "num_hidden_layers num_layers n_layer n_layers decoder_layers num_decoder_layers num_blocks depth"),
    **_all(LAYERS, "encoder_layers num_encoder_layers"),
    **_all(2, "num_global_layers num_layers_per_stack max_window_layers"),
    **_all(HEADS, "num_attention_heads num_heads n_head n_heads decoder_attention_heads encoder_attention_heads attention_heads"),
    **_all(HEADS, "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads linear_num_value_heads"),
    **_all(HEADS, "linear_num_heads num_query_groups"),
    **_all(16, "index_n_heads"),
    **_all(2, "num_key_value_heads num_kv_heads kv_n_heads linear_num_key_heads swa_num_key_value_heads"),
    **_all(HEAD, "head_dim global_head_dim swa_head_dim dim_head d_head d_kv attention_head_size kv_channels v_head_dim"),
    **_all(HEAD, "linear_key_head_dim linear_value_head_dim linear_head_dim qk_nope_head_dim index_head_dim mamba_d_head"),
    **_all(4, "qk_rope_head_dim rotary_dim"),
    **_all(12, "qk_head_dim"),
    **_all(16, "q_lora_rank kv_lora_rank o_lora_rank laurel_rank hc_lowrank router_hidden_size time_step_rank mamba_dt_rank"),
    **_all(8, "ssm_state_size state_size mamba_d_state hidden_size_per_layer_input adapter_rank gated_norm_rank index_topk"),
    **_all(4, "num_local_experts num_experts n_routed_experts moe_num_experts zero_expert_num"),
    **_all(2, "num_experts_per_tok num_experts_per_token moe_top_k moe_topk moe_k"),
    **_all(1, "n_group topk_group num_expert_group first_k_dense_replace num_dense_layers n_groups mamba_n_groups mamba_ngroups"),
    **_all(8, "mamba_n_heads mamba_num_heads n_mamba_heads mamba_head_dim mamba_headdim mamba_chunk_size"),
    **_all(POSITIONS, "max_position_embeddings n_positions max_seq_len max_target_positions n_ctx max_source_positions"),
    **_all(WINDOW, "sliding_window sliding_window_size attention_chunk_size attention_window_size local_attention window_size"),
    **_all(WINDOW, "local_attention_window_len keep_window_size chunk_size"),
    **_all(2, "attn_layer_period expert_layer_period layer_group_size sliding_window_pattern global_attn_every_n_layers"),
    **_all(2, "no_rope_layer_interval o_groups num_kv_shared_layers"),
    **_all(1, "attn_layer_offset expert_layer_offset"),
    **_all(0, "num_nextn_predict_layers"),
}
"""Value by the name of a setting, where the family has one that is a number."""

_MLA = {"head_dim": 4, "num_key_value_heads": HEADS}
"""Latent attention: rotary part of a head, and no heads to share."""

_OWN: dict[str, dict[str, Any]] = {
    **_all(_MLA, "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu"),
    **_all(_MLA, "longcat_flash kimi_linear dots3_note_text"),
    "axk2": {**_MLA, "layer_types": ["indexed_attention"] * LAYERS},
    "dots3_note_text": {**_MLA, "intermediate_size": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 8, "mamba_n_heads": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "zaya": {"num_experts_per_tok": 1},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_key_value_heads": HEADS},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 64, "attention_head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"axial_pos_shape": (16, 16), "axial_pos_embds_dim": (16, 16)},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "num_key_value_heads": 2},
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "xlstm": {"qk_dim_factor": 1.0, "v_dim_factor": 1.0, "num_heads": 4, "mlstm_round_up_to_multiple_of": 8, "chunk_size": 64},
    **_all({"head_dim": HEAD}, "hunyuan_v1_dense hunyuan_v1_moe ministral"),
    **_all({"attn_layer_indices": [1, 3]}, "bamba"),
    **_all({"layers_block_type": ["mamba", "attention"] * 2}, "granitemoehybrid"),
    "lfm2": {"full_attn_idxs": [1, 3]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}
"""Numbers of a family that have to fit each other."""


def names() -> list[str]:
    """Model types that `AutoModelForCausalLM` knows."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(name: str) -> PretrainedConfig:
    """The family's default configuration, shrunk; decoder-only where the family can choose."""
    kind = CONFIG_MAPPING[name]
    settings = _shrunk(kind)
    settings.update(_OWN.get(name, {}))
    for key, part in list(settings.items()):
        if isinstance(part, PretrainedConfig) and f"{name}.{key}" in _OWN:
            settings[key] = type(part)(**(_shrunk(type(part)) | _OWN[f"{name}.{key}"]))
    return kind(**settings)


def _shrunk(kind: type[PretrainedConfig]) -> dict[str, Any]:
    """Keyword arguments that make a small configuration of this kind; parts (text, vision, audio) are shrunk alike."""
    default, settings = kind(), {}
    for key, value in vars(default).items():
        if isinstance(value, PretrainedConfig):
            settings[key] = type(value)(**_shrunk(type(value)))
        elif key in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            settings[key] = _SIZES[key]
    kinds = list(dict.fromkeys(getattr(default, "layer_types", None) or ()))
    stored_as = kind.attribute_map.get("layer_types", "layer_types")
    if len(kinds) > 1 and not isinstance(getattr(kind, stored_as, None), property):
        kinds.sort(key=lambda name: name == "full_attention")  # families that end with a layer of full attention insist on it
        settings["layer_types"] = [kinds[(index - LAYERS) % len(kinds)] for index in range(LAYERS)]
    names = kind.attribute_map
    settings = {names.get(key, key): value for key, value in settings.items()}
    text = isinstance(getattr(default, "vocab_size", None), int)
    if text:
        settings |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True}
    if hasattr(default, "use_sliding_window"):
        settings["use_sliding_window"] = True
    return settings


def tiny_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 3.0) -> PreTrainedModel:
    """A random model of the family whose distributions are neither flat nor sharp. ModelError when none can be built."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = tiny_config(name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
                _spread(model, scale)
        except Exception as error:  # whatever a family's constructor raises, it means the same here
            reason = (str(error).strip().splitlines() or ["no message"])[-1]
            kind = "" if "Error: " in reason else f"{type(error).__name__}: "  # validators name the cause in their message
            raise ModelError(f"no tiny {name} can be built: {kind}{reason[:200]}") from error
    return model.to(dtype).eval()


@torch.no_grad()
def _spread(model: PreTrainedModel, scale: float) -> None:
    """Larger weights, so that attention and gates matter; vectors get noise, so that none stays at 0 or 1."""
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.dim() > 1:
            parameter.mul_(scale)
        else:
            parameter.add_(0.05 * torch.randn_like(parameter))


def tiny_policy(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Policy:
    """The tiny model of a family with the character tokenizer, as `load_policy` would give it."""
    model = tiny_model(name, dtype, seed)
    use_cpu_attention(model)
    return Policy(model, tiny_tokenizer())
