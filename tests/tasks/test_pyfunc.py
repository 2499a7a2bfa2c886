"""A registered folder of weights loads through MLflow, and plainly after a download."""

import shutil
import uuid
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from opsd_core.digest import file_digest
from opsd_core.errors import DataError, IntegrityError, ModelError
from opsd_core.mlmodel import write_mlmodel
from opsd_core.pyfunc_loader import _load_pyfunc
from tasks.storage.artifacts import publish
from tasks.storage.s3 import open_store
from tasks.tracking import Tracker

CHARACTERS = "0123456789+= abc"


def save_tiny(folder: Path, chat_template: str | None = None) -> Path:
    """A random Llama of a few thousand parameters over single characters."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = chat_template
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(vocabulary), pad_token_id=0, eos_token_id=1, bos_token_id=None, **size)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    write_mlmodel(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def greedy(folder: Path, prompt: str, num_tokens: int) -> str:
    """Argmax one token at a time, without generate, padding or cache."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(num_tokens):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_completions_match_argmax_for_prompts_of_any_length(tiny):
    prompts = ["1+1=", "12+34=", "7", "abc abc abc"]
    expected = [greedy(tiny, prompt, 6) for prompt in prompts]
    model, params = _load_pyfunc(str(tiny)), {"max_completion_length": 6, "batch_size": 3}
    assert model.predict(prompts, params) == expected
    assert model.predict(pd.DataFrame({"prompt": prompts}), params) == expected


def test_sampling_depends_on_the_seed_alone(tiny):
    model, sampled = _load_pyfunc(str(tiny)), {"temperature": 5.0, "max_completion_length": 12}
    outside = torch.get_rng_state()
    first = model.predict(["1+1="], {**sampled, "seed": 1})
    assert model.predict("1+1=", {**sampled, "seed": 1}) == first
    assert model.predict(["1+1="], {**sampled, "seed": 2}) != first
    assert torch.equal(torch.get_rng_state(), outside)


def test_a_chat_template_wraps_the_prompt(tmp_path):
    template = "{% for m in messages %}a{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    folder = save_tiny(tmp_path, template)
    params = {"max_completion_length": 6}
    assert _load_pyfunc(str(folder)).predict(["1+1"], params) == [greedy(folder, "a1+1=", 6)]


def test_wrong_input_and_pickles_are_refused(tiny, tmp_path):
    model = _load_pyfunc(str(tiny))
    for wrong in ([1, 2], pd.DataFrame({"text": ["a"], "label": ["b"]})):
        with pytest.raises(DataError, match="predict needs"):
            model.predict(wrong)
    with pytest.raises(DataError, match="no parameter 'top_k'"):
        model.predict(["a"], {"top_k": 1})
    folder = save_tiny(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="only safetensors"):
        _load_pyfunc(str(folder))
    with pytest.raises(ModelError, match="holds no causal language model"):
        _load_pyfunc(str(tmp_path / "absent"))


def test_the_mlmodel_file_is_the_same_every_time(tiny, tmp_path):
    assert file_digest(save_tiny(tmp_path) / "MLmodel") == file_digest(tiny / "MLmodel")
    before = file_digest(tiny / "MLmodel")
    write_mlmodel(tiny)
    assert file_digest(tiny / "MLmodel") == before


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped"])
def test_a_file_that_was_damaged_on_its_way_is_refused_by_name(tiny, tmp_path, name, damage):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    _load_pyfunc(str(folder))
    path = folder / name
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        flip(path, -2)
    with pytest.raises(IntegrityError, match=rf"{name}: (it is missing|expected \[\d+, '\w{{64}}'\], actual)"):
        _load_pyfunc(str(folder))


def test_a_strange_file_and_a_changed_list_are_refused_and_notes_are_not(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "README.md").write_text("mine")
    (folder / "registered_model_meta").write_text("model_name: x")
    _load_pyfunc(str(folder))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(IntegrityError, match=r"chat_template\.jinja: it is no file of this model"):
        _load_pyfunc(str(folder))
    (folder / "chat_template.jinja").unlink()
    text = (folder / "MLmodel").read_text()
    for one, other in (("checksum: ", "checksum: 0"), ("long", "lung"), ("files:", "flies:"), (text, "{")):
        (folder / "MLmodel").write_text(text.replace(one, other))
        with pytest.raises(IntegrityError, match=r"MLmodel: it (does not match its own checksum|cannot be read)"):
            _load_pyfunc(str(folder))


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's own classes
def test_a_registered_version_loads_through_mlflow_and_plainly(stack, settings, tiny, tmp_path):
    tracker, store = Tracker(settings), open_store(f"s3://opsd/test-{uuid.uuid4().hex}", settings)
    store.ensure_bucket()
    artifact = publish(store, "models", {"seed": 0}, tiny, {})
    name = f"model-{uuid.uuid4().hex[:12]}"
    tracker.ensure_model(name)
    run_id = tracker.campaign_run("tests", uuid.uuid4().hex, {})
    tracker.promote(name, tracker.register(name, artifact.uri, run_id), "test", "test")

    mlflow.set_tracking_uri(settings.mlflow_uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    expected = [greedy(tiny, "1+1=", 6), greedy(tiny, "12+", 6)]
    params = {"max_completion_length": 6}
    assert list(model.predict(pd.DataFrame({"prompt": ["1+1=", "12+"]}), params=params)) == expected
    assert list(model.predict(["1+1=", "12+"], params=params)) == expected

    copy = mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=str(tmp_path))
    assert greedy(Path(copy), "1+1=", 6) == expected[0]
