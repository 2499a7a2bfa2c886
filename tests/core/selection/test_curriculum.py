"""pytest tests/core/selection/test_curriculum.py — pass rates, difficulty-weighted draws, length limit, schedules."""

from collections import Counter

import pytest

from opsd_core.config import config_at, resolve
from opsd_core.errors import ConfigError, DataError
from opsd_core.selection.curriculum import (
    CurriculumState,
    add_grades,
    difficulty_weight,
    draw_by_difficulty,
    next_state,
    pass_rate,
    read_state,
    write_state,
)

DIFFICULTY = resolve("tiny", {"curriculum": {"sampling": "difficulty"}}).curriculum


def test_pass_rates_are_smoothed_and_run_on():
    """Nothing seen 1/2; 2 of 3: 3/5; then 2 of 5: 3/7. Unlabelled completions do not count."""
    first = add_grades({}, [("a", True), ("a", True), ("a", False), ("b", None)])
    assert first == {"a": (2, 3)}
    second = add_grades(first, [("a", False), ("a", False)])
    assert [pass_rate(counts, "a") for counts in ({}, first, second)] == [1 / 2, 3 / 5, 3 / 7]
    assert first == {"a": (2, 3)}  # the state before is left as it was


def test_difficulty_weights_by_hand():
    assert difficulty_weight(0.5, DIFFICULTY) == 0.25
    assert difficulty_weight(0.2, DIFFICULTY) == pytest.approx(0.16)
    assert difficulty_weight(0.04, DIFFICULTY) == difficulty_weight(0.96, DIFFICULTY) == 0.0
    hard = resolve("tiny", {"curriculum": {"sampling": "difficulty", "easy_power": 2, "hard_power": 3}}).curriculum
    assert difficulty_weight(0.2, hard) == pytest.approx(0.04 * 0.512)


def test_draws_follow_the_weights_and_nothing_else():
    """p = 1/2 weighs .25, p = 1/10 weighs .09: of two prompts the first one wins .25 / .34 = 73.5 % of the draws."""
    counts = {"middle": (4, 8), "hard": (0, 8), "solved": (98, 98)}
    ids = ["hard", "middle", "solved"]
    wins = Counter(draw_by_difficulty(ids, counts, 1, DIFFICULTY, 0, iteration)[0] for iteration in range(2000))
    assert set(wins) == {"middle", "hard"}
    assert wins["middle"] / 2000 == pytest.approx(0.25 / 0.34, abs=0.03)  # standard error .01
    assert draw_by_difficulty(ids, counts, 5, DIFFICULTY, 0, 1) == draw_by_difficulty(ids[::-1], counts, 5, DIFFICULTY, 0, 1)
    assert sorted(draw_by_difficulty(ids, counts, 5, DIFFICULTY, 0, 1)) == ["hard", "middle"]
    with pytest.raises(DataError, match=r"all 1 training prompts .*\[0\.05, 0\.95\]"):
        draw_by_difficulty(["solved"], counts, 1, DIFFICULTY, 0, 0)


def test_length_limit_doubles_up_to_its_end_unless_entropy_is_high():
    config = resolve(
        "tiny",
        {"rollout": {"max_completion_length": 20}, "curriculum": {"length_start": 6, "length_max_entropy": 1.0}},
    )
    state, lengths = CurriculumState(), []
    for entropy in (0.9, 1.1, 1.0, 0.5):
        lengths.append(config_at(config, 0, state.max_completion_length).rollout.max_completion_length)
        state = next_state(state, [], entropy, config)
    assert lengths == [6, 12, 12, 20] and state.max_completion_length == 20
    with pytest.raises(ConfigError, match=r"length_start=21 exceeds rollout\.max_completion_length=20"):
        resolve("tiny", {"rollout": {"max_completion_length": 20}, "curriculum": {"length_start": 21}})


def test_state_round_trips_and_equal_states_are_equal_bytes(tmp_path):
    state = CurriculumState({"b": (1, 2), "a": (0, 3)}, 12)
    for name, counts in (("x", state.counts), ("y", dict(reversed(state.counts.items())))):
        write_state(tmp_path / name, CurriculumState(counts, 12))
    assert read_state(tmp_path / "x") == state
    assert (tmp_path / "x" / "pass_rates.parquet").read_bytes() == (tmp_path / "y" / "pass_rates.parquet").read_bytes()


def test_schedules_give_every_value_an_equal_share_of_the_iterations():
    """Context fades out, exploration cools down: 6 iterations, 3 contexts, 2 temperatures and group sizes."""
    config = resolve(
        "tiny",
        {
            "iterations": 6,
            "curriculum": {
                "schedules": {
                    "teacher.context": ["reference", "hint", "none"],
                    "rollout.temperature": [1.2, 1.0],
                    "rollout.group_size": [8, 4],
                }
            },
        },
    )
    stages = [config_at(config, iteration) for iteration in range(6)]
    assert [s.teacher.context for s in stages] == ["reference"] * 2 + ["hint"] * 2 + ["none"] * 2
    assert [s.rollout.temperature for s in stages] == [1.2] * 3 + [1.0] * 3
    assert [s.rollout.group_size for s in stages] == [8] * 3 + [4] * 3
    assert stages[0].optimizer == config.optimizer and config.rollout.temperature == 1.0
    assert config_at(resolve("tiny"), 2) == resolve("tiny")


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"teacher.weights": ["initial", "previous"]}, "must not change"),
        ({"rollout.num_prompts": [8, 16]}, "must not change"),
        ({"model.source": ["tiny"]}, "may be scheduled: rollout"),
        ({"rollout.heat": [1.0]}, "no such setting"),
        ({"rollout.temperature": []}, "is empty"),
        ({"rollout.temperature": [1.0, 9.0]}, r"rollout\.temperature: must be less than or equal to 5 \(value: 9\.0\)"),
        ({"teacher.context": ["none", "reference"]}, "iteration 0: .*loss and its gradient are 0"),
        ({"distillation.targets": ["recorded", "online"], "token_weights.entropy": ["uniform", "down"]}, "iteration 2: weights"),
    ],
)
def test_impossible_schedules_are_refused_before_any_work(schedules, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", {"iterations": 3, "curriculum": {"schedules": schedules}})
