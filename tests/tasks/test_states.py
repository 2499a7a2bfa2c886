"""pytest tests/tasks/test_states.py — what changed in place at its address is another source, and says which state was used."""

import json
import os
import shutil
import uuid
from functools import partial

import pytest
from prefect import flow

from opsd_core.config import DataConfig, ModelConfig, resolve
from opsd_core.data import source_content
from opsd_core.errors import ConfigError, DataError, ModelError
from opsd_core.models import tiny
from tasks.context import settings, store
from tasks.loaded import stored_examples
from tasks.refs import PolicyRef
from tasks.stages.prepare import prepare_data, prepare_model
from tasks.stages.weights import model_identity
from tasks.states import check_sources, data_state, in_words, model_state, unchanged_data, unchanged_model
from tasks.storage.artifacts import describe, publish
from tasks.storage.s3 import open_store

NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
"""A whole file of safetensors without any."""


def inside(task, *arguments):
    """A task's result, run in a flow of its own."""

    @flow(name="opsd-test")
    def body():
        return task(*arguments)

    return body()


def rows(begin, end, answer=lambda a: f"{a + 1:03d}"[::-1]):
    return "".join(json.dumps({"question": f"{a}+1=", "answer": answer(a)}) + "\n" for a in range(begin, end)).encode()


@pytest.fixture
def bucket(stack):
    """The session's bucket as users have one of their own, and a name in it."""
    store().ensure_bucket()
    return open_store("s3://opsd", settings()), f"mine/{uuid.uuid4().hex}"


@pytest.fixture
def initial(stack, tiny_model):
    """The tiny model in the store."""
    store().ensure_bucket()
    made = publish(store(), "models", {"test": "states"}, tiny_model, {})
    return PolicyRef(uri=made.uri, digest=made.digest)


def of(source, **changes):
    return resolve("tiny", {"data": {"source": source, "size": None, "validation_fraction": 0.3, **changes}})


def questions(data):
    return {e.question for split in ("train", "validation") for e in stored_examples(data, split)}


def test_an_object_that_changed_in_place_is_read_again_and_one_that_did_not_is_not(bucket, initial):
    remote, name = bucket
    config = of(f"s3://opsd/{name}.jsonl")
    remote.put(f"{name}.jsonl", rows(0, 40))
    first = inside(prepare_data, config, initial)
    assert inside(prepare_data, config, initial) == first
    remote.put(f"{name}.jsonl", rows(40, 80))
    second = inside(prepare_data, config, initial)
    assert second.identity != first.identity
    assert not questions(second) & questions(first)
    state = describe(store(), second.uri).identity["content"]
    assert state == data_state(config.data) and "etag" in in_words(state)
    remote.put(f"{name}.jsonl", rows(0, 40))
    assert inside(prepare_data, config, initial) == first


def test_a_model_folder_that_changed_in_place_is_another_model(bucket, tiny_model, tmp_path):
    remote, name = bucket
    config = resolve("tiny", {"model": {"source": f"s3://opsd/{name}"}})
    for path in tiny_model.iterdir():
        remote.put(f"{name}/{path.name}", path)
    first = inside(prepare_model, config)
    assert inside(prepare_model, config) == first
    other = tiny.build_tiny(tmp_path / "other", seed=5)
    remote.put(f"{name}/model.safetensors", other / "model.safetensors")
    second = inside(prepare_model, config)
    assert second.digest != first.digest and second.uri != first.uri
    remote.put(f"{name}/notes.txt", b"one more object")
    assert inside(prepare_model, config).uri != second.uri


def test_what_changes_while_it_is_read_is_refused(bucket, tiny_model):
    remote, name = bucket
    remote.put(f"{name}.jsonl", rows(0, 40))
    remote.put(f"{name}/config.json", b"{}")
    data, model = DataConfig(source=f"s3://opsd/{name}.jsonl"), f"s3://opsd/{name}"
    before, stood = data_state(data), model_state(model)
    unchanged_data(data, before)
    unchanged_model(model, stood)
    remote.put(f"{name}.jsonl", rows(0, 41))
    remote.put(f"{name}/config.json", b"{ }")
    with pytest.raises(DataError, match=r"rehearsal\.data\[1\]\.source=s3://.* changed while it was read"):
        unchanged_data(data, before, "rehearsal.data[1].source")
    with pytest.raises(ModelError, match=r"teacher\.source=s3://.* changed while it was read"):
        unchanged_model(model, stood, "teacher.source")


def test_files_of_one_name_in_several_folders_all_count(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.jsonl").write_bytes(rows(0, 5))
    config = DataConfig(source=str(tmp_path / "*" / "part.jsonl"))
    seen = [source_content(config)]
    for folder in ("a", "b"):
        (tmp_path / folder / "part.jsonl").write_bytes(rows(0, 6))
        seen.append(source_content(config))
    assert len({json.dumps(state, sort_keys=True) for state in seen}) == 3


def test_a_local_model_and_an_adapters_base_count_by_content(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    before = model_state(str(folder))
    assert before == model_state(str(folder)) and "model.safetensors" in before
    settings_of = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings_of | {"temperature": 0.5}))
    assert model_state(str(folder)) != before
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder)}))
    (adapter / "adapter_model.safetensors").write_bytes(NO_TENSORS)
    before = model_state(str(adapter))
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert model_state(str(adapter)) != before


def test_every_file_that_a_model_is_read_from_counts_whatever_its_times_say(tiny_model, tmp_path):
    """Changed in place: as many bytes, at the same second."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages[0].content }}")
    seen = [model_state(str(folder))]
    assert set(seen[0]) >= {"model.safetensors", "additional_chat_templates/tools.jinja"}
    for name in seen[0]:
        path = folder / name
        stood, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))
        seen.append(model_state(str(folder)))
    assert len({json.dumps(state, sort_keys=True) for state in seen}) == len(seen)


def test_an_adapter_that_names_itself_as_its_base_ends(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}))
    (tmp_path / "adapter_model.safetensors").write_bytes(NO_TENSORS)
    assert "adapter_config.json" in model_state(str(tmp_path))


def test_the_same_folder_in_another_dtype_is_stored_again(tiny_model):
    of_dtype = partial(model_identity, str(tiny_model))
    plain, half = (of_dtype(ModelConfig(source="x", dtype=dtype, device="cpu")) for dtype in ("float32", "bfloat16"))
    assert plain != half
    built = [model_identity("tiny", ModelConfig(source="tiny", dtype=d, device="cpu")) for d in ("float32", "bfloat16")]
    assert built[0] == built[1]


def test_a_grader_that_cannot_judge_stored_data_is_refused_although_the_data_is_there(initial, tmp_path):
    (path := tmp_path / "words.jsonl").write_bytes(rows(0, 40, answer=lambda a: f"word{a}"))
    stored = inside(prepare_data, of(str(path), grader="exact"), initial)
    for _ in range(2):
        with pytest.raises(DataError, match=r"data\.grader=numeric cannot judge 40 of 40 items"):
            inside(prepare_data, of(str(path), grader="numeric"), initial)
    assert inside(prepare_data, of(str(path), grader="exact"), initial) == stored


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"data": {"source": "s3://absent-bucket/d.jsonl"}}, r"data\.source=s3://absent-bucket/d\.jsonl"),
        ({"data": {"source": "s3://opsd/absent/d.jsonl"}}, r"data\.source=s3://opsd/absent/d\.jsonl does not exist"),
        ({"data": {"source": "absent/d.jsonl"}}, r"data\.source='absent/d\.jsonl' does not exist"),
        ({"data": {"source": "absent/*.jsonl"}}, r"data\.source=absent/\*\.jsonl is a glob without files"),
        ({"model": {"source": "s3://absent-bucket/m"}}, r"model\.source=s3://absent-bucket/m cannot be read"),
        ({"model": {"source": "s3://opsd/absent/m"}}, r"model\.source='s3://opsd/absent/m' holds no objects"),
        ({"model": {"source": "./absent"}}, r"model\.source='\./absent' does not exist"),
        ({"model": {"source": "absent.gguf"}}, r"model\.source='absent\.gguf' does not exist"),
        ({"model": {"source": "models:/absent@champion"}}, r"model\.source=models:/absent@champion: there is no"),
        ({"model": {"source": "models:/absent/3"}}, r"model\.source=models:/absent/3: there is no registered model"),
        ({"teacher": {"weights": "external", "source": "s3://opsd/absent/t"}}, r"teacher\.source='s3://opsd/absent/t'"),
        ({"teacher": {"weights": "external", "source": "opsd:absent@champion"}}, r"teacher\.source=models:/absent@champion"),
        ({"teacher": {"weights": "peers", "peers": ["tiny", "models:/absent/1"]}}, r"teacher\.peers\[1\]=models:/absent/1"),
        ({"rehearsal": {"share": 0.2, "data": [{"source": "tiny:addition"}, {"source": "s3://opsd/absent/r.jsonl"}]}},
         r"rehearsal\.data\[1\]\.source=s3://opsd/absent/r\.jsonl does not exist"),
        ({"rehearsal": {"share": 0.2, "data": [{"source": "absent/r.jsonl"}]}},
         r"rehearsal\.data\[0\]\.source='absent/r\.jsonl'"),
    ],
)  # fmt: skip
def test_an_address_that_leads_nowhere_is_refused_by_its_setting_before_anything_is_loaded(bucket, overrides, field):
    with pytest.raises((ConfigError, DataError, ModelError), match=field):
        check_sources(resolve("tiny", overrides))
