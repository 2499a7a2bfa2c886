"""pytest tests/core/training/test_trends.py — slopes with their noise, alarms on them, and whether the context is still used."""

import numpy as np
import pytest
import torch

from opsd_core.config import AlarmConfig, resolve
from opsd_core.models.policy import Policy
from opsd_core.records.views import joined, view
from opsd_core.teacher.kinds import teacher_in_training
from opsd_core.teacher.parts import Models, Parts
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.alarms import find_alarms
from opsd_core.training.probes import run_probes
from opsd_core.training.trends import LEAST_POINTS, WATCHED, trend, trend_metrics, trends
from tests.core.small import small_policy
from tests.core.training.test_trainer import config, items

LENGTH, ENTROPY = "completions/mean_length", "rollout/entropy"


def slopes(*values, name=LENGTH, **settings):
    return find_alarms(AlarmConfig(**settings), "evaluation", [{name: value} for value in values])


def test_a_line_by_hand():
    """y = 1, 2, 2, 5: slope 1.2, residuals .3, .1, -1.1, .7 (sum of squares 1.8), error sqrt(.9 / 5)."""
    line = trend([1, 2, 2, 5])
    assert (line.slope, line.error, line.start, line.points) == pytest.approx((1.2, 0.18**0.5, 0.7, 4))
    assert line.change == pytest.approx(3.6)
    assert line.p_value(1) == pytest.approx(0.0528, abs=2e-4) and line.p_value(-1) == pytest.approx(1 - line.p_value(1))
    assert trend([1.0] * (LEAST_POINTS - 1)) is None and trend([1.0, np.nan, 2.0, 3.0]) is None
    flat, exact = trend([7.0] * 5), trend([0.1 * n for n in range(6)])
    assert (flat.slope, flat.error, flat.p_value(1)) == (0.0, 0.0, 1.0) and exact.p_value(1) == 0.0


def test_the_slope_tells_a_run_that_goes_on_from_one_that_scatters():
    """Levels do not: both end at the same length, and the entropies cross half of their start."""
    assert [alarm.name for alarm in slopes(100, 112, 119, 133, 141, 150)] == ["slope"]
    assert not slopes(100, 150, 96, 148, 103, 150)
    assert not slopes(1.0, 0.45, 1.1, 0.5, 0.9, 0.45, name=ENTROPY)
    assert slopes(1.0, 0.93, 0.8, 0.7, 0.62, 0.5, name=ENTROPY)
    assert not slopes(0.5, 0.62, 0.7, 0.8, 0.93, 1.0, name=ENTROPY)  # the right way


def test_a_small_sure_slope_and_few_points_are_no_alarm():
    assert not slopes(100, 101, 102, 103, 104, 105)
    assert slopes(100, 101, 102, 103, 104, 105, slope_change=0.02)
    assert not slopes(100, 200, 300) and not slopes(100, 112, 119, 133, 141, 150, slope_level=None)
    assert slopes(*([100] * 20), 130, 160, 190, 220, 250, 280, 310, 340)  # the last eight alone count


@pytest.mark.parametrize("name", WATCHED)
def test_noise_alone_raises_an_alarm_as_rarely_as_its_level_says(name):
    generator, raised = np.random.default_rng(0), 0
    for _ in range(400):
        values = 1.0 + 0.3 * generator.standard_normal(8)
        raised += bool(slopes(*values, name=name, slope_level=0.05, slope_change=0.0))
    assert raised <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_trends_are_metrics_of_what_the_latest_iteration_has():
    history = [{LENGTH: 10.0 + n, ENTROPY: 1.0} for n in range(5)]
    assert trend_metrics(history, 8)[f"trend/{LENGTH}/slope"] == pytest.approx(1.0)
    assert set(trends([*history, {LENGTH: 15.0}], 8)) == {LENGTH} and trend_metrics([], 8) == {}


def told(policy: Policy, prompts, answers):
    """Log-probability of every answer token, one sequence at a time; and whether each answer is the most likely one."""
    values, right = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        rows = policy.causal_lm(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        values.append(rows.gather(1, torch.tensor(answer)[:, None])[:, 0])
        right.append(rows.argmax(-1).tolist() == answer)
    return torch.cat(values), sum(right) / len(right)


def test_the_probes_say_what_the_context_is_worth_to_teacher_and_policy():
    student, teacher = small_policy(0), small_policy(1)
    batch, settings = items(student, hint="9|"), config(distillation={"targets": "online"})
    plain, hinted = [i.prompt_ids for i in batch], [i.teacher_prompt_ids for i in batch]
    greedy = teacher.causal_lm(input_ids=torch.tensor([hinted[0]])).logits[0, -1].argmax().item()
    answers = [[greedy], [5, 6], [7], [8], [9, 4]]
    with torch.no_grad():
        (taught, right), (own, _), (used, _) = (
            told(*side, answers) for side in ((teacher, hinted), (student, plain), (student, hinted))
        )
    found = run_probes(student, FixedTeacher(teacher), batch, answers, settings)
    assert found["teacher/privilege_gain"] == pytest.approx((taught - own).mean().item(), abs=1e-4)
    assert found["policy/privilege_gain"] == pytest.approx((used - own).mean().item(), abs=1e-4)
    assert found["teacher/accuracy_with_context"] == right >= 0.2


def test_of_several_views_the_policy_is_asked_after_the_one_with_a_context():
    settings = resolve(
        "tiny",
        {
            "control": True,
            "teacher": {"members": [{"context": "none", "coefficient": 0.5}, {"context": "reference", "coefficient": 0.5}]},
            "distillation": {"targets": "online"},
        },
    )
    student = small_policy(0)
    teacher = teacher_in_training(Parts(settings, Models(1, 1), small_policy, student=student))
    hinted = items(student, hint="9|")
    batch = [type(i)(**(vars(i) | {"teacher_prompt_ids": joined([i.prompt_ids, i.teacher_prompt_ids])})) for i in hinted]
    answers = [[5]] * len(batch)
    with torch.no_grad():
        (used, _), (own, _) = (
            told(student, [view(i.teacher_prompt_ids, number) for i in batch], answers) for number in (1, 0)
        )
    found = run_probes(student, teacher, batch, answers, settings)
    assert found["policy/privilege_gain"] == pytest.approx((used - own).mean().item(), abs=1e-4) != 0.0
