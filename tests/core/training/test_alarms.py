"""pytest tests/core/training/test_alarms.py — every monitor by hand, every alarm provoked, every remedy."""

import pickle

import numpy as np
import pytest
import torch

from opsd_core.config import AlarmConfig, DistillationConfig, resolve
from opsd_core.errors import AlarmError, TrainingError
from opsd_core.objective import ObjectiveResult
from opsd_core.records.rollouts import Rollout
from opsd_core.records.targets import Target
from opsd_core.selection.monitors import completion_metrics, epistemic_tokens
from opsd_core.training.alarms import ALARMS, find_alarms, remedied
from opsd_core.training.monitors import overlap_ratio, token_metrics

CALM = {
    "completions/clipped_ratio": 0.05,
    "rollout/entropy": 1.0,
    "leak_rate": 0.0,
    "self_distillation/empty_target_batch": 0.0,
    "eval/accuracy": 0.5,
    "champion/eval/accuracy": 0.5,
    "champion/eval/accuracy_se": 0.03,
    "kl/p99": 0.9,
    "actor/entropy": 1.0,
}
PROVOKED = {
    "truncation": ("rollout", [{}, {"completions/clipped_ratio": 0.21}], "max_truncation=0.2"),
    "truncation growth": ("rollout", [{}, {"completions/clipped_ratio": 0.11}], "rose from 0.050 to 0.110"),
    "entropy": ("rollout", [{}, {"rollout/entropy": 0.49}], "fell from 1 to 0.49"),
    "entropy rise": ("rollout", [{}, {"rollout/entropy": 2.01}], "rose from 1 to 2.01"),
    "leak": ("rollout", [{"leak_rate": x} for x in (0.3, 0.1, 0.2, 0.25, 0.3)], "3 iterations in a row, from 0.1000"),
    "empty_batch": ("rollout", [{"self_distillation/empty_target_batch": 1.0}], "no completion is left"),
    "kl_p99": ("step", [{}, {"kl/p99": 2.1}, {"kl/p99": 2.5}, {"kl/p99": 2.2}], "2.1 nats or more in 3 steps"),
    "step_entropy": ("step", [{}, {"actor/entropy": 0.4}], "fell from 1 to 0.4"),
    "accuracy": ("evaluation", [{}, {"eval/accuracy": 0.469}], "0.4690 is more than"),
    "slope": (
        "evaluation",
        [{"completions/mean_length": x} for x in (100, 108, 117, 124, 131, 142)],
        "completions/mean_length rises by 8.171",
    ),
}
CALMED = {
    "truncation": [{"completions/clipped_ratio": 0.0}, {"completions/clipped_ratio": 0.04}],  # twice the floor of .02
    "entropy": [{}, {"rollout/entropy": 0.5}],
    "leak": [{"leak_rate": x} for x in (0.1, 0.2, 0.2, 0.3)],
    "kl_p99": [{"kl/p99": 2.1}, {"kl/p99": 2.0}, {"kl/p99": 2.2}],
    "accuracy": [{}, {"eval/accuracy": 0.471}, {"champion/eval/accuracy": 0.9}],
    "slope": [{"completions/mean_length": x} for x in (142, 90, 131, 100, 150, 120)],
}


@pytest.mark.parametrize("case", PROVOKED)
def test_each_alarm_is_raised(case):
    stage, changes, message = PROVOKED[case]
    (alarm,) = find_alarms(AlarmConfig(), stage, [CALM | change for change in changes])
    assert alarm.name == case.partition(" ")[0] and message in alarm.message


def test_every_alarm_is_provoked_above():
    assert {case.partition(" ")[0] for case in PROVOKED} == set(ALARMS)


@pytest.mark.parametrize("case", CALMED)
def test_alarms_stay_silent_at_their_limits(case):
    history = [CALM | change for change in CALMED[case]]
    assert not find_alarms(AlarmConfig(), ALARMS[case][0], history)


def test_null_switches_an_alarm_off_and_missing_metrics_are_silent():
    limits = ("max_", "min_", "leak", "slope_level")
    off = {name: None for name in AlarmConfig.model_fields if name.startswith(limits) and "recov" not in name}
    for case, (stage, changes, _) in PROVOKED.items():
        if case != "empty_batch":
            assert not find_alarms(AlarmConfig(**off), stage, [CALM | change for change in changes]), case
    assert not find_alarms(AlarmConfig(), "evaluation", [{"completions/clipped_ratio": 0.1}])


def test_an_iteration_stopped_early_does_not_blind_the_accuracy_alarm():
    stopped = {"completions/clipped_ratio": 0.5}
    assert find_alarms(AlarmConfig(), "evaluation", [stopped, CALM, CALM | {"eval/accuracy": 0.4}])


def test_remedies_change_one_setting():
    def remedy(name, **overrides):
        config = resolve("tiny", {"alarms": {"remedy": name}}, overrides)
        return config, remedied(config)

    config, changed = remedy("refresh_teacher")
    assert changed == config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": "previous"})})
    config, changed = remedy("refresh_teacher", teacher={"weights": "ema"}, distillation={"targets": "online"})
    assert changed == config  # its average goes back to the champion's with the trainer's state
    config, changed = remedy("lower_rate")
    assert changed.optimizer.learning_rate == pytest.approx(0.5e-3) and changed.rollout == config.rollout
    config, changed = remedy("raise_temperature", curriculum={"schedules": {"rollout.temperature": [4.5, 1.0]}})
    assert changed.rollout.temperature == pytest.approx(1.2)
    assert changed.curriculum.schedules["rollout.temperature"] == pytest.approx((5.0, 1.2))
    assert remedy("end")[1] is None


def test_alarm_error_keeps_its_names_when_it_travels():
    error = pickle.loads(pickle.dumps(AlarmError("truncation: too long", ("truncation",))))
    assert isinstance(error, TrainingError) and str(error) == "truncation: too long" and error.names == ("truncation",)


def rollout(text, num_tokens, reason="eos", entropy=0.5, topk=((1, 2),)):
    column, ids = np.full(num_tokens, entropy, np.float32), np.array(topk * num_tokens, np.int32)[:num_tokens]
    return Rollout(text, 0, 0, [1], [1] * num_tokens, text, reason, column, column, ids, ids, column, column)


def test_completion_metrics_by_hand():
    """Lengths 2, 4, 6; one cut, one of 2,000 equal bytes; entropies .5 x 2, .5 x 4, 1 x 6 tokens -> 9/12."""
    rollouts = [rollout("Wait, maybe 3.", 2), rollout("yes " * 500, 4, "length"), rollout("Hmm.", 6, entropy=1.0)]
    metrics = completion_metrics(rollouts, [True, False, False], max_repetition=10.0)
    assert metrics == pytest.approx(
        {
            "completions/mean_length": 4,
            "completions/min_length": 2,
            "completions/max_length": 6,
            "completions/clipped_ratio": 1 / 3,
            "rollout/tokens": 12,
            "completions/mean_terminated_length": 4,
            "rep_rate": 1 / 3,
            "leak_count": 1,
            "leak_rate": 1 / 3,
            "epistemic_tokens": 1,
            "rollout/entropy": 0.75,
        }
    )
    assert epistemic_tokens("Waiter! Alternatively, let me check; hmmm, actually no.") == 4


def test_overlap_ratio_by_hand():
    """Policy keeps 1 2 at every position; the teacher 2 1, 1 9 and 8 9: overlaps 1, 1/2, 0."""
    teacher = np.array([[2, 1], [1, 9], [8, 9]], np.int32)
    empty = np.zeros(3, np.float32)
    target = Target("x", 0, 1, teacher, teacher.astype(np.float32), empty, empty, empty)
    assert overlap_ratio([rollout("x", 3), rollout("y", 3)], [target]) == {"distillation/overlap_ratio": pytest.approx(0.5)}
    assert overlap_ratio([rollout("y", 3)], [target]) == {}


def test_token_metrics_by_hand():
    """Counted: D = 1, 2, 5, bounded to 1, 1, 1 -> 2/3 of the tokens, (0 + 1 + 4) / 8 of the divergence. D = 99 is masked."""
    divergence, bounded = torch.tensor([1.0, 2.0, 99.0, 5.0]), torch.tensor([1.0, 1.0, 99.0, 1.0])
    entropy = torch.tensor([1.0, 2.0, 50.0, 3.0])
    result = ObjectiveResult(torch.tensor(0.0), divergence, bounded, entropy, entropy / 2, -entropy, None)
    metrics = token_metrics([result], torch.tensor([True, True, False, True]), DistillationConfig())
    assert metrics["kl/mean"] == pytest.approx(8 / 3) and metrics["kl/p50"] == 2.0
    assert metrics["clip/token_fraction"] == pytest.approx(2 / 3)
    assert metrics["clip/entry_mass"] == pytest.approx(5 / 8)
    assert (metrics["actor/entropy"], metrics["teacher/entropy"], metrics["entropy_gap"]) == (2.0, 1.0, 1.0)


def test_what_the_bound_changed_has_no_sign_and_no_scale():
    """At T = 2 with its square: values 4, 8, -8 of D = 1, 4, -4. Changed: 0, 2, 2 of 9 nats, negative values included."""
    divergence, value = torch.tensor([1.0, 4.0, -4.0]), torch.tensor([4.0, 8.0, -8.0])
    result = ObjectiveResult(torch.tensor(0.0), divergence, value, divergence, divergence, -divergence, None)
    config = DistillationConfig(temperature=2.0, scale_by_temperature_squared=True)
    metrics = token_metrics([result], torch.ones(3, dtype=torch.bool), config)
    assert metrics["clip/token_fraction"] == pytest.approx(2 / 3) and metrics["clip/entry_mass"] == pytest.approx(4 / 9)
