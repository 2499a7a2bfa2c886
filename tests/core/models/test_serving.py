"""pytest tests/core/models/test_serving.py — a stored folder answers as the policy did when it was judged."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd_core.config import resolve
from opsd_core.data import make_example
from opsd_core.digest import file_digest
from opsd_core.mlmodel import write_mlmodel
from opsd_core.models.policy import Policy, Serving, add_lora, load_policy, save_policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.pyfunc_loader import _load_pyfunc
from opsd_core.rollout.engines.environment import Environment
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from tests.core.rollout.engines.installed import ROOT, marks
from tests.core.small import small_policy

THINKS = (
    "{% for m in messages %}{{ m['role'][0] }}|{{ m['content'] }}|{% endfor %}{% if add_generation_prompt %}a|"
    "{% if enable_thinking is defined and enable_thinking is false %}={% endif %}{% endif %}"
)
DATED = "{{ strftime_now('%Y') }}" + THINKS
QUESTIONS = ["1+1=", "what is 12 ?", "7", "a longer question than the others - 3+4+5+6"]
OVERRIDES = {
    "plain": {},
    "system": {"prompts": {"system": 'be "brief"\\n - no {% x %}'}},
    "thinking": {"prompts": {"student_thinking": True, "system": "think"}},
    "dated": {"model": {"chat_template": DATED}},
    "instead": {"model": {"chat_template": "{{ messages[-1]['content'] }}={{ '' }}"}},
}


@pytest.fixture(params=OVERRIDES, scope="module")
def judged(request, tmp_path_factory):
    """(folder, the gate's greedy ids by question, the gate's texts, prompt ids)."""
    common = {"evaluation": {"max_completion_length": 20}, "model": {"dtype": "float32", "device": "cpu"}}
    config = resolve("tiny", common, OVERRIDES[request.param])
    policy = small_policy(1, tied=False, scale=10.0, head_dim=32)  # as vLLM computes on a CPU
    policy.tokenizer.chat_template = THINKS
    policy.causal_lm.generation_config.repetition_penalty = 1.7  # as some hub models ship it; the gate uses none
    letter = policy.tokenizer.convert_tokens_to_ids("3")
    policy.causal_lm.generation_config.eos_token_id = [policy.tokenizer.eos_token_id, letter]
    folder = tmp_path_factory.mktemp("served")
    save_policy(policy, folder, Serving.of(policy, config))
    write_mlmodel(folder)
    builder = PromptBuilder(policy.tokenizer, config.prompts, config.teacher, config.model.chat_template)
    prompts = [builder.student_ids(make_example(question, answer="1")) for question in QUESTIONS]
    sampling = Sampling(temperature=0.0, max_completion_length=config.evaluation.max_completion_length)
    made = [c.ids_T for c in generate(policy, prompts, list(range(len(prompts))), sampling, 4)]
    texts = [policy.tokenizer.decode(ids, skip_special_tokens=True) for ids in made]
    assert len({tuple(ids) for ids in made}) > 1
    return folder, made, texts, prompts, builder


def test_a_plain_call_of_the_template_gives_the_judged_prompt(judged):
    folder, _, _, prompts, _ = judged
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for question, ids in zip(QUESTIONS, prompts, strict=True):
        messages = [{"role": "user", "content": question}]
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"] == ids


def test_transformers_generate_gives_the_gates_answers_token_for_token(judged):
    folder, made, _, prompts, _ = judged
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for ids, wanted in zip(prompts, made, strict=True):
        batch = torch.tensor([ids])
        answer = model.generate(input_ids=batch, attention_mask=torch.ones_like(batch))
        assert answer[0, len(ids) :].tolist() == list(wanted)


def test_predict_gives_the_gates_answers(judged):
    folder, _, texts, _, _ = judged
    assert _load_pyfunc(str(folder)).predict(QUESTIONS, {"batch_size": 3}) == texts


def test_the_folder_as_a_source_gives_the_same_prompts_and_digests_and_the_same_files_again(judged, tmp_path):
    folder, _, _, prompts, builder = judged
    config = resolve("tiny", {"model": {"dtype": "float32", "device": "cpu"}, "prompts": builder.prompts.model_dump()})
    policy = load_policy(folder, config.model)
    again = PromptBuilder(policy.tokenizer, builder.prompts, builder.teacher, builder.chat_template)
    assert [again.student_ids(make_example(question, answer="1")) for question in QUESTIONS] == prompts
    assert again.student_digest == builder.student_digest


def test_the_folder_names_the_class_that_servers_look_for(judged):
    folder, *_ = judged
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [type(AutoModelForCausalLM.from_pretrained(folder)).__name__]


def test_other_arguments_of_the_caller_still_count(judged):
    tokenizer = AutoTokenizer.from_pretrained(judged[0])
    if "enable_thinking" not in tokenizer.chat_template:
        return
    messages = [{"role": "system", "content": "mine"}, {"role": "user", "content": "7"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert text.endswith("s|mine|u|7|a|")


def test_the_same_record_writes_the_same_bytes(tmp_path):
    policy = small_policy(1, tied=False, scale=10.0)
    serving = Serving(chat_template=THINKS, template_arguments={"enable_thinking": False}, system="x", eos_ids=(0, 5))
    for name in ("a", "b"):
        save_policy(policy, tmp_path / name, serving)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"README.md", "generation_config.json", "model.safetensors"} <= set(files)
    assert all(file_digest(tmp_path / "a" / f) == file_digest(tmp_path / "b" / f) for f in files)
    assert policy.tokenizer.chat_template != THINKS
    card = (tmp_path / "a" / "README.md").read_text()
    assert "`enable_thinking=False`" in card and "0, 5" in card and '"x"' in card


def test_an_adapter_policy_is_served_as_it_was_judged(tmp_path):
    lora = {"rank": 2, "target_modules": "lm_head,q_proj"}
    config = resolve("tiny", {"model": {"dtype": "float32", "device": "cpu", "lora": lora}})
    policy = add_lora(small_policy(0), config.model.lora, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    save_policy(policy, tmp_path, Serving.of(Policy(policy.model, policy.tokenizer), config))
    prompt = policy.tokenizer.encode("1+1=")
    wanted = generate(policy, [prompt], [0], Sampling(temperature=0.0, max_completion_length=12), 1)[0].ids_T
    stored = AutoModelForCausalLM.from_pretrained(tmp_path)
    batch = torch.tensor([prompt])
    answer = stored.generate(input_ids=batch, attention_mask=torch.ones_like(batch), max_new_tokens=12)
    assert answer[0, len(prompt) :].tolist() == list(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("judged", ["system"], indirect=True)
def test_mlflow_models_serve_gives_the_gates_answers(judged):
    folder, _, texts, _, _ = judged
    port = 20000 + os.getpid() % 20000
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "-p", str(port), "--env-manager", "local"]
    root, programs = Path(__file__).parents[3], Path(sys.executable).parent
    own = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(root)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=own, start_new_session=True, **quiet)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            data=json.dumps({"inputs": QUESTIONS}).encode(),
            headers={"Content-Type": "application/json"},
        )
        for attempt in range(90):
            try:
                answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
                break
            except OSError:
                assert server.poll() is None and attempt < 89
                time.sleep(1)
        assert answer["predictions"] == texts
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.wait(20)


BY_VLLM = """
import json, sys
import vllm
folder, prompts = json.loads(sys.stdin.read())
if __name__ == "__main__":
    engine = vllm.LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128)
    answers = engine.generate([{"prompt_token_ids": ids} for ids in prompts], engine.get_default_sampling_params())
    print("ANSWERS", json.dumps([list(answer.outputs[0].token_ids) for answer in answers]))
"""


@pytest.mark.vllm
@pytest.mark.parametrize("engine", [pytest.param("vllm", marks=marks("vllm"))])
def test_vllm_gives_the_gates_answers(judged, engine):
    """With the folder's own settings, in the environment that `make engine-vllm` makes."""
    folder, made, _, prompts, _ = judged
    environment = Environment.of(engine, ROOT)
    own = environment.variables() | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
    request = json.dumps([str(folder), [list(ids) for ids in prompts]])
    command = [str(environment.python), "-c", BY_VLLM]
    done = subprocess.run(command, input=request, env=own, capture_output=True, text=True, timeout=500)
    line = next((line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")), done.stderr[-3000:])
    assert json.loads(line.removeprefix("ANSWERS ")) == [list(ids) for ids in made]
