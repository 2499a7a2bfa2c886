"""pytest tests/core/models/test_loading.py — weights that are not the model's are refused with file and tensor."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from opsd_core.config import ModelConfig
from opsd_core.errors import ModelError
from opsd_core.models.policy import load_policy, save_policy
from tests.core.small import small_policy

CONFIG = ModelConfig(source="x", device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def stored(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    save_policy(small_policy(0, tied=request.param), folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "model")


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def edit(folder, name, **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def refused(folder, pattern):
    with pytest.raises(ModelError, match=pattern) as caught:
        load_policy(folder, CONFIG)
    assert str(folder) in str(caught.value)


def test_what_was_saved_is_loaded_bit_for_bit(folder):
    loaded = load_policy(folder, CONFIG)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_names_with_a_foreign_prefix_are_refused(folder, prefix):
    rewrite(folder, lambda weights: {prefix + name: tensor for name, tensor in weights.items()})
    refused(folder, r"tensor '.*' is missing \(\d+ in all\).*hold '.*' instead")


@pytest.mark.parametrize("rename", [lambda n: n.removeprefix("model."), lambda n: f"model.{n}"], ids=["less", "more"])
def test_another_depth_of_the_prefix_model_loads_right_or_not_at_all(folder, rename):
    """transformers can often tell where such tensors belong."""
    before = load_policy(folder, CONFIG)
    rewrite(folder, lambda weights: {rename(name): tensor for name, tensor in weights.items()})
    try:
        after = load_policy(folder, CONFIG)
    except ModelError as error:
        assert "is missing" in str(error)
        return
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor), name
    save_policy(after, folder / "again")
    assert "model.norm.weight" in load_file(folder / "again" / "model.safetensors")


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"])
def test_one_missing_tensor_is_named(folder, name):
    if name == "model.embed_tokens.weight" and "lm_head.weight" in load_file(folder / "model.safetensors"):
        edit(folder, "config.json", tie_word_embeddings=False)
    rewrite(folder, lambda weights: {k: v for k, v in weights.items() if k != name})
    refused(folder, "is missing")


def test_one_tensor_too_many_is_named_but_not_a_computed_constant(folder):
    rewrite(folder, lambda weights: weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load_policy(folder, CONFIG)
    rewrite(folder, lambda weights: weights | {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)})
    refused(folder, r"'model\.layers\.2\.mlp\.up_proj\.weight' belongs to no part")


def test_another_shape_and_another_vocabulary_are_named(folder):
    edit(folder, "config.json", vocab_size=99)
    refused(folder, r"tensor '.*' has the shape \(45, 32\), config.json asks for \(99, 32\).*vocab_size")


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(folder):
    policy = small_policy(0)
    policy.tokenizer.add_tokens(["<new>"])
    policy.tokenizer.save_pretrained(folder)
    refused(folder, r"id 45 \('<new>'\).*only 45 rows")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(folder, value):
    def spoil(weights):
        weights["model.layers.1.self_attn.o_proj.weight"][3, 4] = value
        return weights

    rewrite(folder, spoil)
    refused(folder, r"'model\.layers\.1\.self_attn\.o_proj\.weight' holds values that are not finite")


def test_torn_files_and_pointers_are_named(folder):
    path, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    for damaged, pattern in {
        whole[:-100]: "is cut off: tensor '.*' ends behind it",
        whole[:40]: "hold no complete header",
        b"": "hold no complete header",
        struct.pack("<Q", 20) + b"{ not json at all !}" + b"0" * 9: "header cannot be read",
        whole + b"0" * 64: "bytes that belong to no tensor",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n": "Git LFS pointer",
    }.items():
        path.write_bytes(damaged)
        refused(folder, pattern)
    path.write_bytes(whole)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:200])
    refused(folder, r"tokenizer\.json is no valid JSON")


def test_an_index_must_agree_with_its_shards(folder):
    weights = load_file(folder / "model.safetensors")
    first = {name: tensor for name, tensor in weights.items() if "layers.0" in name}
    rest = {name: tensor for name, tensor in weights.items() if name not in first}
    (folder / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": rest}
    for name, part in shards.items():
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_policy(folder, CONFIG)
    save_file(first, folder / "model-00002-of-00002.safetensors", metadata={"format": "pt"})
    refused(folder, r"model-00002-of-00002\.safetensors does not hold '.*', although model\.safetensors\.index\.json")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, r"model-00002-of-00002\.safetensors does not exist")


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ],
)
def test_quantised_folders_are_refused(folder, entry, name):
    edit(folder, "config.json", quantization_config=entry)
    refused(folder, rf"is quantised \({name}; quantization_config")


def test_a_folder_without_a_model_says_what_it_lacks(folder):
    (folder / "config.json").unlink()
    refused(folder, r"holds no config\.json")
