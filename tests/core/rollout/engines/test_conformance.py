"""pytest tests/core/rollout/engines/test_conformance.py — every engine makes the same record of the same policy."""

import threading
from collections import Counter

import numpy as np
import psutil
import pytest
import torch
from scipy.stats import chisquare

from opsd_core.config import resolve
from opsd_core.data import make_example
from opsd_core.errors import ConfigError, DataError, ServiceError
from opsd_core.models.policy import save_policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.rollouts import read_rollouts, write_rollouts
from opsd_core.rollout.engines.interface import Weights
from opsd_core.rollout.engines.kinds import ENGINES as CLASSES
from opsd_core.rollout.engines.kinds import start_engine
from opsd_core.rollout.sample import complete, sample_rollouts
from opsd_core.rollout.sampling import Sampling
from tests.core.rollout.engines.installed import ENGINES, ROOT
from tests.core.small import small_policy

NATS = 5e-4
"""Largest difference of a log-probability in float32; vLLM's measured largest is 6e-5."""
TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}|{{ m['content'] }}|{% endfor %}{% if add_generation_prompt %}a|{% endif %}"
SHAPE = {"vocab_size": 51, "hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "max_position_embeddings": 192}
"""More rows than the tokenizer has tokens, as many models have; a head that a CPU's kernels know."""
QUESTIONS = ["1+1=", "what is 12 ?", "7", "a longer question than the others - 3+4+5+6", "12+30=", "b"]


def config(**overrides):
    base = {
        "model": {"dtype": "float32", "device": "cpu"},
        "prompts": {"max_prompt_length": 150, "system": "be brief", "student": "q {{ question }}"},
        "rollout": {"max_completion_length": 24, "record_top_k": 8, "group_size": 2},
        "execution": {"rollout_batch_size": 8, "microbatch_tokens": 256},
    }
    return resolve("tiny", base, {"model": {"chat_template": TEMPLATE}}, overrides)


@pytest.fixture(params=ENGINES, scope="module")
def engine(request, tmp_path_factory):
    """One engine for all cases, with a policy that ends with either of two tokens."""
    policy = small_policy(3, tied=False, scale=7.0, **SHAPE)
    policy.tokenizer.chat_template = TEMPLATE
    policy.causal_lm.generation_config.eos_token_id = [policy.tokenizer.eos_token_id, policy.tokenizer.convert_tokens_to_ids("k")]
    folder = tmp_path_factory.mktemp("weights")
    save_policy(policy, folder)
    weights = Weights(policy, folder, "digest-of-these-weights")
    with start_engine(weights, config(execution={"engine": request.param}, rollout={"record_top_k": 400}), ROOT) as started:
        yield started


@pytest.fixture(scope="module")
def sampled(engine):
    """Rollouts of every question, checked, and the record's distance."""
    examples = [make_example(question, answer="1") for question in QUESTIONS]
    rollouts = sample_rollouts(engine.weights.policy, examples, 0, config(), None, engine)
    return engine.checked(rollouts, config())


def forward(policy, rollout):
    """log pi (T, V) along a completion, from one plain forward pass."""
    ids = torch.tensor([*rollout.prompt_ids, *rollout.completion_ids])
    with torch.no_grad():
        logits_TV = policy.causal_lm(input_ids=ids[None, :-1]).logits[0, len(rollout.prompt_ids) - 1 :]
    return torch.log_softmax(logits_TV.double(), -1).numpy()


def answered(engine, settings, num=6, prompts=None):
    """Checked completions of `num` prompts under other settings of `rollout`."""
    policy = engine.weights.policy
    prompts = prompts or [policy.tokenizer.encode(f"{number}+{number}=") for number in range(num)]
    keys = [(str(number), 0) for number in range(len(prompts))]
    return engine.checked(complete(engine, keys, prompts, list(range(len(prompts))), settings), settings)[0]


def test_it_is_an_engine_of_the_table_and_says_its_version(engine):
    assert CLASSES[engine.name] is type(engine) and any(part.isdigit() for part in engine.version.split(".")[0])
    assert engine.alive


def test_the_record_is_whole_and_reads_back(engine, sampled, tmp_path):
    rollouts, held = sampled
    assert len(rollouts) == 12 and held["recorded_error"] < NATS
    for rollout in rollouts:
        length = len(rollout.completion_ids)
        for name in ("logprobs_T", "sampling_logprobs_T", "tail_mass_T", "entropy_T"):
            column = getattr(rollout, name)
            assert column.dtype == np.float32 and column.shape == (length,) and np.isfinite(column).all(), name
        assert rollout.topk_ids_TK.shape == rollout.topk_logprobs_TK.shape == (length, 8)
        assert rollout.completion_text == engine.weights.policy.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)
    write_rollouts(tmp_path / "r.parquet", rollouts)
    assert [r.completion_ids for r in read_rollouts(tmp_path / "r.parquet")] == [r.completion_ids for r in rollouts]


def test_log_probabilities_top_k_tail_and_entropy_are_the_models_own(engine, sampled):
    for rollout in sampled[0]:
        logprobs_TV = forward(engine.weights.policy, rollout)
        rows = np.arange(len(rollout.completion_ids))
        assert rollout.logprobs_T == pytest.approx(logprobs_TV[rows, rollout.completion_ids], abs=NATS)
        assert np.array_equal(rollout.sampling_logprobs_T, rollout.logprobs_T), "temperature 1, nothing cut"
        largest_TK = np.argsort(-logprobs_TV, axis=1)[:, :8]
        assert [set(row) for row in rollout.topk_ids_TK.tolist()] == [set(row) for row in largest_TK.tolist()]
        assert (np.diff(rollout.topk_logprobs_TK, axis=1) <= 0).all(), "largest first"
        assert rollout.topk_logprobs_TK == pytest.approx(np.take_along_axis(logprobs_TV, rollout.topk_ids_TK, 1), abs=NATS)
        kept_T = np.exp(np.take_along_axis(logprobs_TV, rollout.topk_ids_TK, 1)).sum(1)
        assert rollout.tail_mass_T == pytest.approx(1 - kept_T, abs=NATS) and (rollout.tail_mass_T > 0).all()
        assert rollout.entropy_T == pytest.approx(-(np.exp(logprobs_TV) * logprobs_TV).sum(1), abs=NATS)


def test_a_completion_ends_at_its_first_end_token_whichever_it_is(engine, sampled):
    ends, seen = engine.weights.policy.eos_ids, set()
    assert len(ends) == 2
    rollouts = sampled[0] + answered(engine, config(rollout={"max_completion_length": 60}), 40)
    drawn = {token for rollout in rollouts for token in rollout.completion_ids}
    assert max(drawn) >= len(engine.weights.policy.tokenizer), "rows without a name are drawn too"
    for rollout in rollouts:
        assert not set(rollout.completion_ids[:-1]) & set(ends)
        assert (rollout.finish_reason == "eos") == (rollout.completion_ids[-1] in ends)
        seen.add(rollout.completion_ids[-1] if rollout.finish_reason == "eos" else None)
    assert seen == {*ends, None}, "both ends and the limit were seen"


def test_prompts_are_the_templates_token_ids(engine, sampled):
    examples = {(e := make_example(question, answer="1")).id: e for question in QUESTIONS}
    builder = PromptBuilder.of(engine.weights.policy.tokenizer, config())
    for rollout in sampled[0]:
        assert rollout.prompt_ids == builder.student_ids(examples[rollout.example_id])
        assert engine.weights.policy.tokenizer.decode(rollout.prompt_ids).replace(" ", "").startswith("s|bebrief|u|q")


@pytest.mark.parametrize("limit", [1, 5])
def test_no_completion_is_longer_than_the_limit(engine, limit):
    rollouts = answered(engine, config(rollout={"max_completion_length": limit}), 12)
    assert max(len(r.completion_ids) for r in rollouts) == limit
    cut = [r for r in rollouts if r.finish_reason == "length"]
    assert cut and all(len(r.completion_ids) == limit for r in cut)


def test_what_does_not_fit_is_refused_by_field_and_the_engine_goes_on(engine):
    with pytest.raises(DataError, match=r"prompt of 180 tokens plus rollout\.max_completion_length=24 .*context of 192"):
        engine.generate([[5] * 180], [0], Sampling(max_completion_length=24, record_top_k=1))
    with pytest.raises(DataError, match="no tokens"):
        engine.generate([[]], [0], Sampling(max_completion_length=2, record_top_k=1))
    assert engine.generate([], [], Sampling(max_completion_length=2, record_top_k=1)) == [] and answered(engine, config(), 1)


def test_greedy_takes_the_most_likely_token(engine):
    prompts = [engine.weights.policy.tokenizer.encode(text) for text in ("1+1=", "abc ")]
    made = engine.generate(prompts, [0, 1], Sampling(temperature=0.0, max_completion_length=12, record_top_k=2))
    for prompt, completion in zip(prompts, made, strict=True):
        ids, logits_PV = torch.tensor([*prompt, *completion.ids_T]), None
        with torch.no_grad():
            logits_PV = engine.weights.policy.causal_lm(input_ids=ids[None, :-1]).logits[0]
        assert logits_PV[len(prompt) - 1 :].argmax(-1).tolist() == completion.ids_T
        assert completion.sampling_logprobs_T == [0.0] * len(completion.ids_T)


SAMPLINGS = {
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.5},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.6},
    "all": {"temperature": 0.8, "top_k": 12, "top_p": 0.8},
    "wide": {"top_k": 1000},
}


def kept(logprobs_V, temperature=1.0, top_k=0, top_p=1.0):
    """The distribution that is drawn from, said as plainly as possible."""
    probs = np.exp(logprobs_V / temperature)
    order = np.argsort(-probs)
    if 0 < top_k < len(probs):
        probs[order[top_k:]] = 0
    probs /= probs.sum()
    for place, token in enumerate(order):
        if probs[order[:place]].sum() >= top_p:
            probs[token] = 0
    return probs / probs.sum()


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampling_settings_are_honoured_and_recorded(engine, name):
    """Of every token the recorded log-probability of the draw; of the first token the frequencies over many draws too."""
    settings = config(rollout=SAMPLINGS[name] | {"max_completion_length": 4})
    prompt = engine.weights.policy.tokenizer.encode("12+3=")
    rollouts = answered(engine, settings, prompts=[prompt] * 300)
    for rollout in rollouts[:40]:
        for step, logprobs_V in enumerate(forward(engine.weights.policy, rollout)):
            probs_V = kept(logprobs_V, **SAMPLINGS[name])
            assert np.log(probs_V[rollout.completion_ids[step]]) == pytest.approx(rollout.sampling_logprobs_T[step], abs=NATS)
    expected_V = 300 * kept(forward(engine.weights.policy, rollouts[0])[0], **SAMPLINGS[name])
    seen_V = np.zeros(len(expected_V))
    for token, count in Counter(r.completion_ids[0] for r in rollouts).items():
        seen_V[token] = count
    assert not seen_V[expected_V == 0].any()
    many = expected_V >= 5
    seen, expected = (np.append(v[many], v[~many].sum()) for v in (seen_V, expected_V))
    likely = expected > 1
    scale = seen[likely].sum() / expected[likely].sum()
    assert likely.sum() == 1 or chisquare(seen[likely], expected[likely] * scale).pvalue > 1e-4


def test_the_same_shard_again_in_another_order_and_company_gives_the_same_tokens(engine, sampled):
    examples = [make_example(question, answer="1") for question in reversed(QUESTIONS)]
    before = {rollout.key: rollout.completion_ids for rollout in sampled[0]}
    policy = engine.weights.policy
    again = [r for e in examples for r in sample_rollouts(policy, [e], 0, config(), None, engine)]
    assert {rollout.key: rollout.completion_ids for rollout in again} == before
    other = sample_rollouts(policy, examples, 1, config(), None, engine)
    assert {rollout.key: rollout.completion_ids for rollout in other} != before, "another iteration draws anew"


def test_more_entries_than_the_vocabulary_has_are_all_of_it(engine):
    (rollout,) = answered(engine, config(rollout={"record_top_k": 400}), 1)
    assert rollout.topk_ids_TK.shape[1] == SHAPE["vocab_size"] and np.isfinite(rollout.topk_logprobs_TK).all()
    assert (np.abs(rollout.tail_mass_T) < 1e-6).all()


def test_references_keep_their_record(engine):
    settings = config(rollout={"on_policy_fraction": 0.5, "reference_completion": "{{ answer }}"})
    examples = [make_example(f"{number}+1=", answer=str(number + 1)) for number in range(12)]
    rollouts, _ = engine.checked(sample_rollouts(engine.weights.policy, examples, 0, settings, None, engine), settings)
    references = [r for r in rollouts if r.source == "reference"]
    assert 0 < len(references) < len(rollouts) and all(np.isnan(r.sampling_logprobs_T).all() for r in references)
    assert all(np.isfinite(r.sampling_logprobs_T).all() for r in rollouts if r.source == "policy")


def test_progress_is_told_to_the_end(engine):
    told = []
    engine.generate([[5, 6]] * 10, list(range(10)), Sampling(max_completion_length=6, record_top_k=1), lambda *p: told.append(p))
    assert told[-1] == (10, 10) and [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("name", [param for param in ENGINES if param.values[0] != "transformers"])
def test_an_engine_of_its_own_samples_stored_weights_alone(engine, name):
    with pytest.raises(ConfigError, match=rf"execution\.engine={name}.*in memory alone"):
        start_engine(Weights(engine.weights.policy), config(execution={"engine": name}), ROOT)


def test_one_that_is_killed_is_said_and_leaves_nothing(engine):
    """The last case of the file: it takes the engine with it."""
    server = getattr(engine, "server", None)
    if server is None:
        pytest.skip("has no process of its own")
    members = psutil.Process(server.process.pid).children(recursive=True)
    killer = threading.Timer(1.0, lambda: [process.kill() for process in members if "EngineCore" in " ".join(process.cmdline())])
    killer.start()
    with pytest.raises(ServiceError, match=r"execution\.engine=vllm (answers|gives no answer)"):
        engine.generate([[5, 6, 7]] * 2000, list(range(2000)), Sampling(max_completion_length=100, record_top_k=8))
    _, alive = psutil.wait_procs(members, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] and not engine.alive
