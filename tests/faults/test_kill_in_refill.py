"""pytest tests/faults/test_kill_in_refill.py — kill -9 while prompts are asked again: it ends as undisturbed."""

import pytest

from tests.faults.kills import Arm
from tests.faults.outcome import differences, outcome
from tests.tasks.refilling.test_rounds import TOLD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def arm(name, tiny_model, folder):
    refill = {"share": 1.0, "group_size": 3, "max_rounds": 3}
    overrides = TOLD | {
        "model": {"source": str(tiny_model)},
        "rollout": {"group_size": 2, "temperature": 2.0, "refill": refill},
        "filter": {"keep_per_prompt": "shortest_right"},
        "teacher": {"context": "other_attempt"},
        "optimizer": {"batch_size": 16},
        "evaluation": {"num_items": 20},
    }
    parameters = {"recipe": "tiny", "iterations": 1, "num_prompts": 32, "num_steps": 2, "overrides": overrides}
    return Arm(name, folder, parameters)


def made(arm, kind):
    return sum("MANIFEST" in info.key for info in arm.store().list(f"{kind}/"))


@pytest.mark.parametrize(("kind", "number"), [("refills", 1), ("rollouts", 3), ("refills", 2), ("rollouts", 5)])
def test_killed_while_asking_again_it_goes_on_there_and_ends_the_same(stack, tiny_model, tmp_path, kind, number):
    undisturbed = arm("whole-refill", tiny_model, tmp_path / "whole").finish()
    killed = arm(f"killed-refill-{kind}-{number}", tiny_model, tmp_path / "killed")
    assert killed.attempt(lambda: made(killed, kind) >= number) == -9
    assert made(killed, "states") == 0
    killed.finish()
    assert "exists and is reused" in killed.log()
    assert differences(outcome(killed), outcome(undisturbed)) == []
