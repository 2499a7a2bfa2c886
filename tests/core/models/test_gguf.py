"""pytest tests/core/models/test_gguf.py — GGUF files that are whole load; a damaged or incomplete one is named."""

import gguf
import numpy as np
import pytest
import torch

from opsd_core.errors import ModelError
from opsd_core.models.policy import load_gguf, save_policy, verify_stored

VOCABULARY = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b"]
SHAPES = {
    "token_embd.weight": (262, 32),
    "output.weight": (262, 32),
    "output_norm.weight": (32,),
    **{f"blk.0.attn_{name}.weight": (32, 32) for name in ("q", "k", "v", "output")},
    "blk.0.ffn_gate.weight": (64, 32),
    "blk.0.ffn_up.weight": (64, 32),
    "blk.0.ffn_down.weight": (32, 64),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.ffn_norm.weight": (32,),
}


def write(path, change=lambda tensors: tensors):
    """A random Llama of one layer, as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 3)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    for name, values in change(tensors).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_whole_file_loads_and_is_stored_as_it_is(tmp_path):
    policy = load_gguf(write(tmp_path / "a.gguf"))
    random = np.random.default_rng(0)
    assert torch.equal(policy.model.model.embed_tokens.weight, torch.from_numpy(random.normal(size=(262, 32)).astype(np.float32)))
    save_policy(policy, tmp_path / "stored")
    assert verify_stored(policy, tmp_path / "stored") == 0.0


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "blk.0.ffn_up.weight"}, r"up_proj\.weight' is missing"),
        (lambda t: {k: v for k, v in t.items() if k != "output_norm.weight"}, r"'model\.norm\.weight' is missing"),
        (lambda t: t | {"blk.0.ffn_up.weight": t["blk.0.ffn_up.weight"][:16]}, r"up_proj\.weight' has the shape \(16, 32\)"),
        (lambda t: t | {"output.weight": t["output.weight"] * np.nan}, r"'lm_head\.weight' holds values that are not finite"),
    ],
)
def test_a_tensor_that_is_not_right_is_named(tmp_path, change, pattern):
    path = write(tmp_path / "a.gguf", change)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_gguf(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [0, 3, 40, 5000, -2000])
def test_a_file_that_is_cut_off_is_named(tmp_path, size):
    path = write(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"(is no GGUF file|cannot be read as GGUF).*cut off") as caught:
        load_gguf(path)
    assert str(path) in str(caught.value)
