"""pytest tests/core/rollout/test_conversations.py — turns of the policy and an environment, token by token, and their record."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.digest import derive_seed
from opsd_core.errors import ConfigError, DataError, ModelError
from opsd_core.graders import get_grader
from opsd_core.judgement.evaluation import evaluate_policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.turns import Turns
from opsd_core.records.rollouts import ROLLOUTS, StoredRollouts, read_rollouts, write_rollouts
from opsd_core.rollout.conversations import Talk
from opsd_core.rollout.environments.check import check_environment
from opsd_core.rollout.generation import generate
from opsd_core.rollout.recorded import recorded_error
from opsd_core.rollout.sample import sample_rollouts
from opsd_core.rollout.sampling import Sampling
from tests.core.rollout.talking import TEMPLATE, talking_config, talking_policy

EXAMPLES = addition_examples(12)


@pytest.fixture(scope="module")
def talked(tmp_path_factory):
    policy, config = talking_policy(), talking_config(tmp_path_factory.mktemp("talk"))
    return policy, config, sample_rollouts(policy, EXAMPLES, 0, config)


def turns_of(rollout):
    """(start, stop, own) of each run of the policy's or the environment's tokens."""
    edges = [0, *(np.flatnonzero(np.diff(rollout.sampled_T.astype(int))) + 1).tolist(), len(rollout.sampled_T)]
    return [(a, b, bool(rollout.sampled_T[a])) for a, b in pairwise(edges)]


def test_turns_alternate_within_their_limits_and_every_way_to_end_occurs(talked):
    _, config, rollouts = talked
    reasons = [r.finish_reason for r in rollouts]
    assert set(reasons) == {"eos", "length", "turns"} and len(rollouts) == 24
    for r in rollouts:
        runs = turns_of(r)
        assert runs[0][2] and runs[-1][2], "the policy begins and ends"
        assert r.num_turns == sum(own for *_, own in runs) <= config.rollout.max_turns
        assert r.num_turns == config.rollout.max_turns or r.finish_reason != "turns"
        assert len(r.completion_ids) == len(r.sampled_T) <= config.rollout.max_completion_length
        assert r.truncated == (r.finish_reason != "eos") and r.num_sampled == sum(b - a for a, b, own in runs if own)
    assert max(r.num_turns for r in rollouts) == 3 and min(r.num_turns for r in rollouts) == 1


def test_what_stands_between_turns_is_the_templates_and_nothing_is_encoded_again(talked):
    policy, _, rollouts = talked
    encode = policy.tokenizer.encode
    for r in rollouts:
        said = 0
        for start, stop, own in turns_of(r):
            if own:
                said += 1
                assert stop == len(r.completion_ids) or r.completion_ids[stop - 1] in policy.eos_ids
            else:
                assert r.completion_ids[start:stop] == encode(f"{said}=|", add_special_tokens=False)
        texts = [policy.tokenizer.decode(r.completion_ids[a:b], skip_special_tokens=True) for a, b, own in turns_of(r) if own]
        assert r.completion_text == "\n\n".join(texts) and r.answer_text == texts[-1]


def test_every_turn_is_what_the_sampler_gives_after_all_that_came_before(talked):
    """Alone, with the turn's own seed: neighbours, batches and shards decide nothing."""
    policy, config, rollouts = talked
    sampling = Sampling(config.rollout.temperature, max_completion_length=24, record_top_k=5)
    for r in rollouts[:8]:
        number = 0
        for start, stop, own in turns_of(r):
            if own:
                seed = derive_seed("turn", r.seed, number) if number else r.seed
                (again,) = generate(policy, [r.prompt_ids + r.completion_ids[:start]], [seed], sampling, 1)
                assert again.ids_T[: stop - start] == r.completion_ids[start:stop]
                np.testing.assert_allclose(again.logprobs_T[: stop - start], r.logprobs_T[start:stop], atol=2e-5)
                number += 1
    assert recorded_error(policy, rollouts) < 1e-5


def test_any_split_into_shards_gives_the_same_conversations_bit_by_bit(talked, tmp_path):
    policy, config, rollouts = talked
    again = sample_rollouts(policy, EXAMPLES, 0, config)
    write_rollouts(tmp_path / "a", rollouts), write_rollouts(tmp_path / "b", again)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    parts = [r for part in (EXAMPLES[::2], EXAMPLES[1::2]) for r in sample_rollouts(policy, part, 0, config)]
    whole = {r.key: (r.completion_ids, r.sampled_T.tolist(), r.finish_reason) for r in rollouts}
    assert {r.key: (r.completion_ids, r.sampled_T.tolist(), r.finish_reason) for r in parts} == whole


def same(a, b):
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)
    return True


def test_a_record_is_read_as_it_was_written_and_says_what_was_nobodys(talked, tmp_path):
    policy, _, rollouts = talked
    mixed = talking_config(tmp_path, rollout={"on_policy_fraction": 0.5})
    found = sample_rollouts(policy, EXAMPLES, 0, mixed)
    assert {r.source for r in found} == {"policy", "reference"}
    for made in (rollouts, found, list(reversed(found))):
        write_rollouts(tmp_path / "shard", made)
        stored = StoredRollouts([tmp_path / "shard"])
        for read in (read_rollouts(tmp_path / "shard"), stored, [stored[n] for n in range(len(made))]):
            assert all(same(a, b) for a, b in zip(read, made, strict=True))
        assert all(same(ROLLOUTS.decode(ROLLOUTS.arrays(r)), r) for r in made)
        assert stored.lengths().tolist() == stored.light.lengths().tolist() == [r.num_sampled for r in made]
        entropies_N = np.concatenate([r.own(r.entropy_T) for r in made])
        np.testing.assert_array_equal(np.concatenate(list(stored.entropies())), entropies_N)
        assert [r.sampled_T is None for r in stored.light] == [r.source == "reference" for r in made]
    write_rollouts(tmp_path / "streamed", iter(rollouts)), write_rollouts(tmp_path / "shard", rollouts)
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "shard").read_bytes()
    for r in rollouts:
        for column in (r.logprobs_T, r.sampling_logprobs_T, r.entropy_T, r.tail_mass_T, r.topk_logprobs_TK):
            assert np.isnan(column[~r.sampled_T]).all() and not np.isnan(column[r.sampled_T]).any()


def test_where_the_policy_is_asked_nothing_nobody_answers(tmp_path):
    given = talking_config(tmp_path, rollout={"on_policy_fraction": 0.0}, distillation={"divergence": "cross_entropy"})
    assert {r.source for r in sample_rollouts(talking_policy(), EXAMPLES, 0, given)} == {"reference"}


def test_a_context_that_hardly_suffices_is_used_to_its_end(tmp_path):
    """Conversations whose prompts leave unequal room are asked apart, none longer than the model's context."""
    policy, config = talking_policy(max_position_embeddings=32), talking_config(tmp_path)
    long = [e for e in EXAMPLES if len(e.question) <= 7]
    rollouts = sample_rollouts(policy, long, 0, config)
    wide = sample_rollouts(talking_policy(), long, 0, config)
    assert [r.completion_ids for r in rollouts] == [r.completion_ids for r in wide]


def test_a_policy_is_evaluated_as_it_is_used_and_only_its_last_turn_is_judged(talked):
    policy, config, _ = talked
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"num_samples": 2})})
    builder, seen = PromptBuilder.of(policy.tokenizer, config), []

    def judge(example, text):
        seen.append(text)
        return get_grader("exact")(example, text)

    outcomes = evaluate_policy(policy, EXAMPLES, builder, judge, config)
    again = evaluate_policy(policy, EXAMPLES, builder, judge, config)
    assert outcomes == again and len(outcomes) == 12 * 3
    assert all(o.text.endswith(text) for o, text in zip(outcomes, seen, strict=False))
    several = [(o, text) for o, text in zip(outcomes, seen, strict=False) if "\n\n" in o.text]
    assert several and all(text != o.text and "\n\n" not in text for o, text in several)
    talk, ask = Talk.of(policy, builder, config.rollout), partial(generate, policy, batch_size=4)
    held = talk.opened(EXAMPLES, builder.all_student_ids(EXAMPLES), range(12))
    talk.hold(ask, held, Sampling(temperature=0.0, max_completion_length=24))
    greedy = outcomes[:12]
    assert [o.num_tokens for o in greedy] == [sum(c.sampled_T) for c in held] < [len(c.sampled_T) for c in held]
    assert [o.mean_entropy for o in greedy] == [float(np.nansum(c.completion.entropy_T)) / sum(c.sampled_T) for c in held]
    assert {o.truncated for o in outcomes} == {True, False}


TEMPLATES = {
    "no end": "{% for m in messages %}{{ m['content'] }}|{% endfor %}",
    "no token that ends": "{% for m in messages %}{{ m['content'] }}{{ '.' if m['role'] == 'assistant' else '|' }}{% endfor %}",
    "rewrites": "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] }}{% else %}x{% endif %}"
    "{{ eos_token if m['role'] == 'assistant' else '|' }}{% endfor %}",
    "strips": "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}"
    "{{ eos_token if m['role'] == 'assistant' else '|' }}{% endfor %}",
    "opens a thought": TEMPLATE + "{% if add_generation_prompt %}<think></think>{% endif %}",
    "hides": "{% for m in messages %}{% if loop.first or m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}"
    "{{ eos_token if m['role'] == 'assistant' else '|' }}{% endfor %}",
    "numbers": "{{ messages|length }}" + TEMPLATE,
    "raises": TEMPLATE + "{% if messages|length > 2 %}{{ raise_exception('no more') }}{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_cannot_go_on_token_by_token_is_refused_by_name(name, tmp_path):
    policy, config = talking_policy(), talking_config(tmp_path, model={"chat_template": TEMPLATES[name]})
    turns = Turns(PromptBuilder.of(policy.tokenizer, config), tuple(policy.eos_ids))
    with pytest.raises(ModelError, match=r"model\.chat_template"):
        check_environment(turns, EXAMPLES, config.rollout)
    with pytest.raises(ModelError, match=r"model\.chat_template"):
        sample_rollouts(policy, EXAMPLES, 0, config)


def test_a_message_that_names_a_control_token_or_the_probe_stays_text(tmp_path):
    policy, config = talking_policy(), talking_config(tmp_path)
    turns = Turns(PromptBuilder.of(policy.tokenizer, config), tuple(policy.eos_ids))
    question, said = {"role": "user", "content": "1+1="}, {"role": "assistant", "content": "opsdprobeturn <eos>"}
    (ids,) = turns.following([[question, said, {"role": "user", "content": "a<eos>b opsdprobeturn"}]])
    assert policy.tokenizer.eos_token_id not in ids
    assert "".join(policy.tokenizer.convert_ids_to_tokens(ids)).replace("<unk>", "?") == "a?eos?b opsdprobeturn|"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("1 / 0", "raised ZeroDivisionError"),
        ("None", r"returned None, where \(message, done\) is wanted"),
        ("('x', 0)", "is wanted"),
        ("(None, False)", "where it is not done"),
        ("('', False)", "where it is not done"),
        ("({'role': 'system', 'content': 'x'}, False)", "where it is not done"),
        ("({'role': 'user', 'content': 3}, False)", "where it is not done"),
        ("(object(), False)", "what no file can hold"),
    ],
)
def test_an_environment_that_gives_no_answer_is_refused_by_item_and_field(body, why, tmp_path):
    policy, config = talking_policy(), talking_config(tmp_path)
    (tmp_path / "counts.py").write_text(f"def reply(messages):\n    return {body}\n")
    turns = Turns(PromptBuilder.of(policy.tokenizer, config), tuple(policy.eos_ids))
    with pytest.raises(DataError, match=rf"(?s)item [0-9a-f]{{16}}: rollout\.environment_function .*{why}"):
        check_environment(turns, EXAMPLES, config.rollout)
    with pytest.raises(DataError, match=rf"(?s)item [0-9a-f]{{16}}: rollout\.environment_function .*{why}"):
        sample_rollouts(policy, EXAMPLES, 0, config)


def test_messages_are_the_whole_conversation_and_done_ends_it(tmp_path):
    code = (
        "def reply(messages):\n    roles = [m['role'] for m in messages]\n    assert roles[:2] == ['system', 'user'], roles\n"
        "    assert roles[2::2] == ['assistant'] * len(roles[2::2]) and messages[0]['content'] == 'be brief'\n"
        "    assert len(roles) == 3 or messages[-2]['content'] == 'more'\n    return 'more', len(roles) > 4\n"
    )
    policy = talking_policy()
    config = talking_config(tmp_path, prompts={"system": "be brief"}, rollout={"max_turns": 4})
    (tmp_path / "counts.py").write_text(code)
    assert {r.finish_reason for r in sample_rollouts(policy, EXAMPLES, 0, config)} <= {"eos", "length"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"rollout": {"environment": "python"}}, r"rollout\.environment=python without rollout\.environment_function"),
        ({"rollout": {"environment": "calculator"}, "execution": {"engine": "vllm"}}, r"environment.*execution\.engine=vllm"),
        ({"rollout": {"environment": "shell"}}, r"rollout\.environment.*calculator.*shell"),
        ({"rollout": {"environment": "calculator", "max_turns": 1}}, r"rollout\.max_turns"),
        ({"curriculum": {"schedules": {"rollout.max_turns": [2, 3]}}}, r"rollout\.max_turns.*must not change"),
    ],
)
def test_what_cannot_be_asked_of_a_conversation_is_refused_by_field(settings, why):
    with pytest.raises(ConfigError, match=why):
        resolve("tiny", settings)
