"""pytest tests/core/models/test_hostile_folders.py — files that are damaged or made to do harm are refused before they cost."""

import json
import os
import resource
import shutil
import struct
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from opsd_core.config import ModelConfig
from opsd_core.config.sources import LoraConfig
from opsd_core.errors import ModelError
from opsd_core.models.chat import chat_template
from opsd_core.models.policy import add_lora, load_policy, save_adapter, save_policy
from opsd_core.models.storage.files import check_folder
from opsd_core.models.storage.headers import read_header
from tests.core.small import small_policy

CONFIG = ModelConfig(source="x", device="cpu", dtype="float32")
FIRST = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    save_policy(small_policy(0), folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "model")


def refused(folder, pattern):
    """ModelError from loading, at once and without memory."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ModelError, match=pattern) as caught:
        load_policy(folder, CONFIG)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 1500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert time.process_time() - begin < 10


def header_of(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path, header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"data_offsets": [-4, 4]}, r"data_offsets \[-4, 4\]"),
        ({"data_offsets": [0.5, 4.5]}, r"data_offsets \[0\.5"),
        ({"data_offsets": [0, 1e999]}, r"data_offsets \[0, inf\]"),
        ({"data_offsets": ["0", "4"]}, "data_offsets"),
        ({"data_offsets": [5760, 0]}, "data_offsets"),
        ({"data_offsets": [0]}, "data_offsets"),
        ({"data_offsets": [0, 2**60], "shape": [2**58], "dtype": "F32"}, "ends behind it"),
        ({"data_offsets": [64, 64 + 5760]}, "overlaps the tensor|behind bytes of no tensor|ends behind it"),
        ({"dtype": "F99"}, "dtype 'F99', which safetensors does not know"),
        ({"dtype": ["F32"]}, "dtype"),
        ({"dtype": "I8"}, r"shape \[45, 32\] in I8, which is not what its 5,760 bytes hold"),
        ({"shape": [10**12, 10**12]}, "which is not what its 5,760 bytes hold"),
        ({"shape": [-45, -32]}, "a shape is a list of sizes"),
        ({"shape": None}, "a shape is a list of sizes"),
        ({"shape": [45, 32, True]}, "a shape is a list of sizes"),
        ({"shape": [1] * 10**5 + [45, 32]}, "a shape is a list of sizes"),
        ({"dtype": "I32"}, "is stored as I32, a weight is a floating-point number"),
    ],
)
def test_a_tensor_that_cannot_be_is_named(folder, change, pattern):
    header, data = header_of(folder / "model.safetensors")
    header[FIRST] |= change
    write(folder / "model.safetensors", json.dumps(header).replace("Infinity", "1e999").encode(), data)
    refused(folder, rf"tensor '{FIRST}'.*({pattern})")


@pytest.mark.parametrize(
    "header", [b"[]", b"12345678", b"null", b'{"\xff": 1}', b"[" * 10**5, b'{"a": ' * 10**5, b'{"a": []}', b'{"a": null}', b"{}"]
)
def test_a_header_that_is_none_is_refused(folder, header):
    write(folder / "model.safetensors", header, header_of(folder / "model.safetensors")[1])
    refused(folder, r"model\.safetensors.*(header cannot be read|belong to no tensor|no complete header)")


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 2**63, 0, 1])
def test_a_header_of_impossible_length_is_refused(folder, length):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + b"0" * 99)
    refused(folder, "hold no complete header")


def test_two_tensors_at_one_place_are_refused(folder):
    header, data = header_of(folder / "model.safetensors")
    one, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    header[one]["data_offsets"] = header[other]["data_offsets"]
    write(folder / "model.safetensors", header, data)
    refused(folder, "overlaps the tensor before it|behind bytes of no tensor")


def test_what_safetensors_writes_is_read_in_every_dtype(tmp_path):
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "float8_e4m3fn"]
    names += ["float8_e5m2", "uint16", "uint32", "uint64", "complex64"]
    tensors = {name: torch.zeros(3, 5, dtype=getattr(torch, name)) for name in names} | {"empty": torch.zeros(0, 7)}
    save_file(tensors, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert {name: stored.shape for name, stored in header.items()} == {name: tuple(t.shape) for name, t in tensors.items()}
    assert {name for name in names if header[name].is_float} == {name for name in names if "float" in name}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_put_into_a_header_are_refused_or_harmless(stored, tmp_path_factory, data):
    whole = bytearray((stored / "model.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 1500))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(bytes(whole))
    try:
        assert read_header(path)
    except ModelError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_hidden_layers", 10**6), ("vocab_size", 10**9), ("hidden_size", 10**9), ("hidden_size", 2**70)),
        *(("intermediate_size", 10**9), ("num_attention_heads", 10**9), ("num_key_value_heads", 10**9), ("head_dim", 10**9)),
        *(("num_labels", 10**9), ("num_experts", 10**7), ("vocab_size", 10**7), ("num_hidden_layers", 5000)),
    ],
)
def test_a_size_far_beyond_the_files_is_refused_by_its_name(folder, name, value):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {name: value}))
    refused(folder, rf"config\.json: {name}={value:,} cannot be: ")
    path.write_text(json.dumps({**config, "text_config": {**config, name: value}}))
    refused(folder, rf"config\.json: text_config\.{name}={value:,} cannot be: ")


def test_settings_that_a_family_does_not_use_may_be_larger_than_its_weights(folder):
    path = folder / "config.json"
    unused = {"moe_intermediate_size": 11008, "n_inner": 4096, "max_position_embeddings": 10_485_760, "num_experts": 256}
    path.write_text(json.dumps(json.loads(path.read_text()) | unused))
    assert load_policy(folder, CONFIG)


OBJECTS = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize("text", ["[]", "null", "7", "[" * 10**5, '{"a":' * 10**5, "\ufeff{}", "{", "{}{}", '"'])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_file_that_holds_no_object_is_named(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    refused(folder, rf"{name}.*(holds a JSON|nested too deeply|no valid JSON)")


def test_a_file_larger_than_any_models_is_refused_unread(folder):
    for name in ("tokenizer.json", "config.json", "extra.json"):
        with (folder / name).open("r+b" if (folder / name).exists() else "wb") as file:
            before = file.seek(0, 2)
            file.truncate(20 << 30)
        refused(folder, rf"{name} has 21,474,836,480 bytes, more than")
        os.truncate(folder / name, before)
        if not before:
            (folder / name).unlink()


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "added_tokens.json", "chat_template.jinja"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder", "nowhere"])
def test_what_is_no_plain_file_is_never_opened(folder, name, kind):
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "nowhere": folder / "absent"}[kind])
    refused(folder, rf"{name} is no plain file")


@pytest.mark.parametrize("index", ['{"weight_map": []}', '{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": "../../x"}}'])
def test_an_index_that_leads_elsewhere_is_refused(folder, index):
    (folder / "model.safetensors.index.json").write_text(index)
    refused(folder, "weight_map|does not exist")


@pytest.mark.parametrize("value", ["x", [1, "x"], 10**12, -3, 1.5, True, {"a": 1}])
def test_an_end_token_that_is_none_is_refused(folder, value):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": value}))
    refused(folder, r"generation_config\.json: eos_token_id=")


@pytest.mark.parametrize("template", [5, [1], {"default": 7}, [{"name": "default", "template": ["a"]}], True])
def test_a_template_that_is_no_text_is_refused(folder, template):
    tokenizer = small_policy(0).tokenizer
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=r"chat template.*(model\.chat_template|model\.source)"):
        chat_template(tokenizer)


@pytest.mark.parametrize("change", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}, {"r": "many"}])
def test_an_adapter_of_impossible_rank_is_refused(tmp_path, stored, change):
    save_adapter(add_lora(small_policy(0), LoraConfig(rank=2), 0), tmp_path, str(stored))
    assert load_policy(tmp_path, CONFIG)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(tmp_path, r"adapter_config\.json: rank .* is not that of the stored adapter")


def test_a_whole_folder_passes(folder):
    weights = load_file(folder / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert {name: stored.shape for name, stored in check_folder(folder).items()} == shapes
