"""pytest tests/flows/environments/test_conversation_campaign.py — a campaign of conversations, and again."""

import json

import numpy as np
import pytest

from benchmarks.environments.calculator import TEMPLATE, TOLD, caller, sums
from flows.iterate import iterate
from opsd_core.records.outcomes import read_outcomes
from opsd_core.records.rollouts import read_rollouts
from tasks.context import store, tracker

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
JUDGE = "def judge(text, item):\n    return text.strip() == item['answer']\n"


@pytest.fixture
def overrides(tiny_model, tmp_path):
    """Sums in a file, judged by a function in another, and a model that may call."""
    rows = [{"question": e.question, "answer": e.answer} for e in sums(200, seed=4)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(JUDGE)
    return {
        "model": {"source": str(caller(tmp_path / "caller", tiny_model, steps=60)), "chat_template": TEMPLATE},
        "data": {
            "source": str(tmp_path / "sums.jsonl"), "validation_fraction": 0.3, "test_fraction": 0.1, "size": None,
            "grader": "python", "grader_function": f"{tmp_path / 'mine.py'}:judge",
        },
        "rollout": {"environment": "calculator", "max_turns": 2, "max_completion_length": 48, "num_prompts": 48},
        "evaluation": {"max_completion_length": 48, "num_samples": 0, "num_items": 40},
        "teacher": {"context": "instruction", "instruction": TOLD, "template": "{{ privileged_context }}|{{ student_prompt }}"},
        "optimizer": {"num_steps": 12, "batch_size": 24, "learning_rate": 3e-4},
        "promotion": {"max_length_ratio": 10.0},
        "execution": {"num_shards": 2, "checkpoint_every": 5},
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's own classes
def test_a_campaign_learns_to_call_and_is_found_again(stack, overrides):
    settings = {"recipe": "tiny", "name": "calls", "iterations": 1, "overrides": overrides}
    text = iterate(**settings)
    assert "version 2 promoted" in text and tracker().version_by_alias("calls", "champion") == 2
    assert iterate(**settings).splitlines()[0] == text.splitlines()[0]
    shards = [read_rollouts(path / "rollouts.parquet") for path in _folders("rollouts")]
    rollouts = [rollout for shard in shards for rollout in shard]
    assert len(rollouts) == 48 and {r.num_turns for r in rollouts} == {1, 2}
    assert all(np.isnan(r.logprobs_T[~r.sampled_T]).all() for r in rollouts)
    outcomes = [read_outcomes(path / "outcomes.parquet") for path in _folders("evaluations")]
    right = sorted(sum(o.correct for o in found) / len(found) for found in outcomes)
    assert right[0] + 0.3 < right[-1] and all("result" not in o.text for found in outcomes for o in found)


def _folders(kind):
    from tasks.context import local

    uris = {store().uri(key.rpartition("/")[0]) for key in _keys(kind)}
    return [local(uri) for uri in sorted(uris)]


def _keys(kind):
    return [info.key for info in store().list(f"{kind}/") if info.key.endswith("MANIFEST.json")]
