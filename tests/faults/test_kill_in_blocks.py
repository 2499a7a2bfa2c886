"""pytest tests/faults/test_kill_in_blocks.py — kill -9 between blocks of a sequential evaluation; nothing is answered twice."""

import pytest

from tests.faults.kills import Arm
from tests.faults.outcome import differences, outcome

pytestmark = pytest.mark.timeout(1800)


def arm(name, tiny_model, folder):
    overrides = {
        "model": {"source": str(tiny_model)},
        "optimizer": {"batch_size": 16},
        "execution": {"num_shards": 1},
        "evaluation": {"num_items": 30, "block": 5},
        "promotion": {"alpha": 0.49, "test": "sequential"},
    }
    parameters = {"recipe": "tiny", "iterations": 1, "num_prompts": 32, "num_steps": 2, "overrides": overrides}
    return Arm(name, folder, parameters)


def blocks(arm):
    return [info.key for info in arm.store().list("evaluations/") if "MANIFEST" in info.key]


@pytest.mark.slow
def test_killed_between_blocks_it_goes_on_with_the_next_and_says_the_same(stack, tiny_model, tmp_path):
    undisturbed = arm("whole-blocks", tiny_model, tmp_path / "whole").finish()
    killed = arm("killed-blocks", tiny_model, tmp_path / "killed")
    assert killed.attempt(lambda: len(blocks(killed)) >= 3) == -9
    done = len(blocks(killed))
    assert 3 <= done < len(blocks(undisturbed)) and "evaluate-in-blocks-it0" not in killed.stages()
    killed.finish()
    assert killed.log().count("evaluations: ") >= done, "the blocks before the kill were found"
    assert "items answered" in killed.log() and differences(outcome(killed), outcome(undisturbed)) == []
