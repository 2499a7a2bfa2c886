"""The sizes that a config.json asks for against what the files hold, before a model of these sizes is built.

A layer has at least a tensor, and the largest matrices of a model are among its weights; so a size far beyond the files is a
mistake or made to fill the memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opsd_core.errors import ModelError
from opsd_core.models.storage.headers import Stored

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "num_nextn_predict_layers")
_COUNTS = ("num_labels", "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_codebooks")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim", "dim")
_WIDTHS = (
    *("vocab_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "moe_intermediate_size"),
    *("shared_expert_intermediate_size", "num_attention_heads", "num_key_value_heads", "n_head", "head_dim", "v_head_dim"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "q_lora_rank", "kv_lora_rank", "embedding_size", "word_embed_proj_dim"),
    *("state_size", "time_step_rank", "conv_kernel", "type_vocab_size", "linear_key_head_dim", "linear_value_head_dim"),
)
_POSITIONS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len")
_FEW_LAYERS, _MANY = 100, 100_000
_SLACK, _TIMES = 1 << 26, 4
"""Numbers, and multiples of what is stored, that a matrix may have: settings that a family does not use stay as they are."""
_SLACK_ALL, _TIMES_ALL = 1 << 28, 16
"""The same for all layers together, which may share weights."""


def check_sizes(config: Mapping[str, Any], tensors: Sequence[tuple[str, Stored]], source: str) -> None:
    """ModelError naming the setting of config.json that asks for far more than `tensors` hold; nothing without tensors."""
    if not tensors:
        return
    num_stored = sum(stored.numel for _, stored in tensors)
    learned = any("wpe" in name or "position" in name for name, _ in tensors)
    for place, part in _parts(config, ""):
        where = f"{source}/config.json: {place}"
        for name in _LAYERS:
            if _number(part, name) > max(_FEW_LAYERS, len(tensors)):
                raise ModelError(_refused(where, name, part[name], f"its files hold {len(tensors)} tensors in all"))
        for name in _COUNTS:
            if _number(part, name) > _MANY:
                raise ModelError(_refused(where, name, part[name], f"at most {_MANY:,} make sense"))
        _check_widths(part, where, num_stored, _POSITIONS if learned else _POSITIONS[:1])


def _check_widths(part: Mapping[str, Any], where: str, num_stored: int, positions: tuple[str, ...]) -> None:
    hidden_name = next((name for name in _HIDDEN if _number(part, name)), "")
    hidden = _number(part, hidden_name) or 1
    holds = f"its files hold {num_stored:,} numbers in all"
    for name in (*([hidden_name] if hidden_name else []), *_WIDTHS, *positions):
        if _number(part, name) * hidden > _TIMES * num_stored + _SLACK:
            beside = f" with {hidden_name}={hidden:,}" if hidden_name and name != hidden_name else ""
            raise ModelError(_refused(where, name, part[name], f"{holds}, one matrix{beside} would have more"))
    heads = max(_number(part, "num_attention_heads"), _number(part, "num_key_value_heads"), _number(part, "n_head"))
    inside = heads * _number(part, "head_dim")
    if inside * hidden > _TIMES * num_stored + _SLACK:
        why = f"{holds}, one matrix of {heads:,} heads would have more"
        raise ModelError(_refused(where, "head_dim", part["head_dim"], why))
    inner = max(_number(part, name) for name in ("intermediate_size", "n_inner", "ffn_dim"))
    for name in _LAYERS:
        together = _number(part, name) * hidden * (4 * max(hidden if hidden_name else 0, inside) + 3 * inner)
        if together > _TIMES_ALL * num_stored + _SLACK_ALL:
            raise ModelError(_refused(where, name, part[name], f"{holds}, so many layers would have {together:,}"))


def _parts(config: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The configuration and those inside it, with the words that lead there."""
    yield place, config
    for name, value in config.items():
        if isinstance(value, Mapping) and place.count(".") < 4:
            yield from _parts(value, f"{place}{name}.")


def _number(part: Mapping[str, Any], name: str) -> int:
    value = part.get(name)
    return value if type(value) is int and value > 0 else 0


def _refused(where: str, name: str, value: int, why: str) -> str:
    return (
        f"{where}{name}={value:,} cannot be: {why}. config.json is damaged, belongs to another model, or is made to fill the "
        "memory; take it from where the weights are from."
    )
