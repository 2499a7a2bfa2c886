"""pytest tests/core/rollout/test_calculator_end_to_end.py — the tiny model learns from itself to use the calculator."""

import pytest
import torch

from benchmarks.environments.calculator import TOLD, alone, caller, learn, measured, sums, tiny_config
from opsd_core.models.policy import load_policy
from opsd_core.rollout.conversations import Talk
from opsd_core.rollout.sample import sample_rollouts


@pytest.fixture(scope="module")
def start(tiny_model, tmp_path_factory):
    """The tiny model, taught the format: it guesses, unless it is told to calculate."""
    return caller(tmp_path_factory.mktemp("caller") / "model", tiny_model, steps=60)


def rates(policy, config):
    outcomes = measured(policy, sums(40, seed=9), config)
    return sum(o.correct for o in outcomes) / 40, sum("<calc>" in o.text for o in outcomes) / 40


def test_a_student_learns_to_call_from_itself_when_told_to(start, tmp_path):
    """Nothing but the call's own tokens can teach that: what the calculator says is not learned."""
    config = tiny_config()
    before = load_policy(start, config.model)
    told = config.model_copy(update={"prompts": config.prompts.model_copy(update={"student": f"{TOLD}|{{{{ question }}}}"})})
    assert rates(before, told)[1] > 0.9 and rates(before, config)[1] < 0.4
    after = learn(tmp_path, start, config, sums(48, seed=2))
    (right, called), guessed = rates(after, config), rates(before, config)[0]
    assert called > 0.9 and right > guessed + 0.3
    assert rates(after, alone(config))[0] <= 0.1, "without the calculator it cannot add"


def test_its_conversations_hold_what_the_calculator_said_and_only_its_own_tokens_count(start):
    config = tiny_config(rollout={"temperature": 1.0})
    policy = load_policy(start, config.model)
    rollouts = sample_rollouts(policy, sums(24, seed=3), 0, config)
    talked = [r for r in rollouts if r.num_turns == 2]
    assert talked and any(r.num_turns == 1 for r in rollouts)
    ids = torch.arange(len(policy.tokenizer))
    assert int(ids[-1]) > max(max(r.completion_ids) for r in talked)
    for r in talked:
        said = policy.tokenizer.decode([t for t, own in zip(r.completion_ids, r.sampled_T, strict=True) if not own])
        call = r.completion_text.partition("\n\n")[0]
        assert said.startswith("<result>") and said.endswith("</result>") and call.startswith("<calc>")
        assert "result" not in r.completion_text and r.answer_text == r.completion_text.rpartition("\n\n")[2]
    assert Talk.of(policy, None, alone(config).rollout) is None
