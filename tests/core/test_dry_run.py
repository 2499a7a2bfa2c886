"""pytest tests/core/test_dry_run.py — two minutes that say whether a campaign can learn, before it starts."""

import copy
from dataclasses import replace

import pytest

from opsd_core.config import resolve
from opsd_core.data import load_examples
from opsd_core.dry_run import dry_run, in_words
from opsd_core.models.policy import load_policy
from opsd_core.rollout.engines.interface import Weights
from opsd_core.rollout.engines.own import OwnEngine
from opsd_core.teacher.parts import Models, Parts


@pytest.fixture(scope="module")
def tried(tiny_model):
    """`tried(overrides)`: the report on the tiny model."""

    def run(*overrides, spoil=lambda data: data):
        small = {"data": {"size": 400}, "optimizer": {"batch_size": 8}}
        config = resolve("tiny", small, *overrides)
        policy = load_policy(tiny_model, config.model)
        student = load_policy(tiny_model, config.model)
        parts = Parts(config, Models(policy, policy), load=lambda p: p, load_copy=copy.deepcopy, student=student)
        return dry_run(OwnEngine(Weights(policy), 32), student, parts, spoil(load_examples(config.data)).train, config), config

    return run


def test_a_campaign_with_a_signal_has_no_problem_and_shows_both_sides(tried):
    found, config = tried()
    assert not found.problems and found.accepted == 1.0
    student, teacher, _ = found.prompts[0]
    assert len(found.prompts) == 10 and student.removeprefix("<s>") in teacher and teacher != student
    assert found.signal["teacher/divergence"] > 0 and found.signal["teacher/privilege_gain"] > 0
    assert all(value > 0 for value in found.minutes.values()) and found.gigabytes["rollouts"] > 0
    assert found.memory.keys() == found.minutes.keys() and all(value > 1e8 for value in found.memory.values())
    assert found.lengths["completion"][2] == config.rollout.max_completion_length
    text = in_words(found, config)
    assert "No problem found" in text and teacher in text and "minutes" in text


def test_a_teacher_that_is_the_student_is_said_to_teach_nothing(tried):
    found, config = tried({"teacher": {"template": _SAME}})
    assert any("nothing to learn" in problem for problem in found.problems)
    assert in_words(found, config).count("**Problem:**") == len(found.problems)


_SAME = "{{ question }}{% if privileged_context == 'never' %}x{% endif %}"


def test_references_that_the_grader_rejects_are_counted_and_shown(tried):
    def spoil(data):
        return replace(data, train=[replace(e, answer="~") if i % 4 == 0 else e for i, e in enumerate(data.train)])

    found, _ = tried({"data": {"grader": "numeric"}}, spoil=spoil)
    assert found.accepted == pytest.approx(0.75, abs=0.01) and found.rejected[0][1] == "~"
    assert any("rejects" in problem for problem in found.problems)


def test_filters_that_leave_nothing_are_named(tried):
    found, _ = tried({"filter": {"route": "correct_only", "min_score": 1.0}})
    assert any("every completion was left out" in problem for problem in found.problems)
